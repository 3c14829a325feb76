"""The gradient of the loss by the weights of a network, batch by batch, and its sums by channel.

Notation:
    w, g  a weight and its gradient
    N     channels of a group
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.cost import FloatArray
from autoprune.data.images import IntArray
from autoprune.methods.base import Subject
from autoprune.models.cutting.surgery import cut, keep_all, named_tensors
from autoprune.models.network import AxisChannels, Role, TracedNetwork
from autoprune.tasks.base import Objective
from autoprune.training.backward import overwriting_named
from autoprune.training.feed import make_feed


def weight_names(network: TracedNetwork, role: Role) -> tuple[str, ...]:
    """Returns the weights with an axis of that role, each once."""
    return tuple(dict.fromkeys(axis.names[0] for axis in network.axes if axis.role is role))


def batch_gradients(
    subject: Subject, names: Sequence[str], chosen: IntArray, batch_size: int
) -> Iterator[tuple[Mapping[str, Tensor], Mapping[str, Tensor], float]]:
    """Yields per batch the weights, the gradients of its mean loss, and its share of the images.

    Args:
        subject: whose dense network, in eval mode, and training images are meant.
        names: of the weights.
        chosen: (n,) positions of training images.
        batch_size: images at most.

    Raises:
        ModelError: the forward overwrites in place what the backward needs.
    """
    # A copy, because the dense network is not ours to require gradients of.
    model: nn.Module = cut(subject.model, subject.network, keep_all(subject.network)).eval()
    tensors = named_tensors(model)
    weights = {name: tensors[name].requires_grad_() for name in names}
    unique = list({id(tensor): tensor for tensor in weights.values()}.values())
    task = subject.data.task
    batch_size, seen = min(batch_size, task.largest_batch), 0
    order = [np.arange(start, min(start + batch_size, len(chosen))) for start in range(0, len(chosen), batch_size)]
    for inputs, targets in make_feed(subject.data.train, chosen, subject.device).batches(order):
        loss = task.loss(model, inputs, targets, teacher=None, objective=Objective(), precision=nullcontext())
        with overwriting_named("take a method without gradients, such as 'l1'"):
            found = torch.autograd.grad(loss, unique, allow_unused=True)
        by_tensor = {
            id(tensor): torch.zeros_like(tensor) if gradient is None else gradient
            for tensor, gradient in zip(unique, found, strict=True)
        }
        gradients = {name: by_tensor[id(tensor)] for name, tensor in weights.items()}
        yield {name: tensor.detach() for name, tensor in weights.items()}, gradients, len(inputs) / len(chosen)
        seen += len(inputs)
        subject.progress(float(seen), float(len(chosen)))


def inner_products(
    network: TracedNetwork, role: Role, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> list[FloatArray]:
    """Returns per group (N,) <w, g> over all weights whose axis of that role carries the channel."""
    totals = [np.zeros(group.width) for group in network.groups]
    for axis in network.axes:
        if axis.role is role:
            product = weights[axis.names[0]] * gradients[axis.names[0]]
            add_by_channel(totals, network.channels[axis.channels], product.movedim(axis.axis, 0).flatten(1).sum(1))
    return totals


def add_by_channel(totals: Sequence[FloatArray], layout: AxisChannels, values: Tensor) -> None:
    """Adds a value per position of an axis to the totals of their channels, in place."""
    found = values.double().cpu().numpy()
    for group in layout.members:
        mine = layout.group == group
        np.add.at(totals[group], layout.channel[mine], found[mine])
