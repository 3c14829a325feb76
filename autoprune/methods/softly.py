"""What methods that prune while they train share: edits of single channels that can still recover, and when they come.

A channel lives in every tensor that produces or follows it: filters, biases, batch norms, depthwise filters, and the
momentum of each. An edit changes all of them, in all member layers of a group, or the channel falls apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.methods.base import Subject
from autoprune.models.cutting.surgery import named_tensors
from autoprune.models.network import IndexArray, LayerCall, Role, TracedNetwork
from autoprune.models.reduction.calibration import solvable
from autoprune.training.hooks import Hook, TrainingState
from autoprune.training.recipe import Recipe, finetune_recipe
from autoprune.training.trainer import train

Mask = npt.NDArray[np.bool_]

#: Fewest edits of a training, however short: a schedule of one step is none.
FEWEST_EDITS = 8


@dataclass(frozen=True, eq=False)
class ChannelAxis:
    """Where the N channels of one group lie along one axis of one parameter or buffer.

    Attributes:
        name: the tensor's first qualified name.
        axis: the dimension.
        role: what the axis does with the channels.
        positions: (p,) positions of the group, ordered by channel, then as they occur.
        channels: (p,) the channel at each of them.
        width: N.
    """

    name: str
    axis: int
    role: Role
    positions: IndexArray
    channels: IndexArray
    width: int

    @cached_property
    def is_even(self) -> bool:
        """Whether every channel occurs equally often, so that one can take another's place."""
        counts = np.bincount(self.channels, minlength=self.width)
        return bool((counts == counts[0]).all())

    def at(self, channels: Mask) -> IndexArray:
        """Returns the positions of the channels of an (N,) mask."""
        return self.positions[channels[self.channels]]

    def rows(self, tensor: Tensor) -> Tensor:
        """Returns (p, *) the slices of the tensor, a copy."""
        return tensor.detach().movedim(self.axis, 0)[_index(self.positions, tensor)]

    def mix(self, tensor: Tensor, matrix: Tensor) -> None:
        """Replaces the N channels by the (N, N) matrix times them."""
        rows = self.rows(tensor)
        # Equal rows of the matrix must give equal bits, which one product does not promise: libraries add in another
        # order at the edge of a block.
        distinct, which = torch.unique(matrix.to(tensor.device), dim=0, return_inverse=True)
        mixed = (distinct @ rows.reshape(self.width, -1).double())[which]
        self.write(tensor, mixed.reshape(rows.shape).to(tensor.dtype))

    def write(self, tensor: Tensor, rows: Tensor, channels: Mask | None = None) -> None:
        """Overwrites the slices with (p, *) rows; of a subset of channels if an (N,) mask is given."""
        chosen = np.arange(len(self.positions)) if channels is None else np.flatnonzero(channels[self.channels])
        view = tensor.detach().movedim(self.axis, 0)
        view[_index(self.positions[chosen], tensor)] = rows[_index(chosen, rows)].to(view)

    def clear(self, tensor: Tensor, channels: Mask) -> None:
        """Sets the channels of an (N,) mask to zero."""
        tensor.detach().movedim(self.axis, 0)[_index(self.at(channels), tensor)] = 0.0


def _index(positions: IndexArray, tensor: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(positions)).to(tensor.device)


@dataclass(frozen=True, eq=False)
class GroupAxes:
    """Everything of a network that carries one group.

    Attributes:
        index: the group's position in the network.
        width: N.
        makers: axes that produce or follow the channels: what an edit changes.
        readers: axes that consume them.
        calls: layers whose output is the group's and that produce or filter (depthwise) it.
        addable: whether consumers can sum the weights of members of a cluster, with `addition_inputs`.
        reads_image: whether one of its producers reads the image.
    """

    index: int
    width: int
    makers: tuple[ChannelAxis, ...]
    readers: tuple[ChannelAxis, ...]
    calls: tuple[LayerCall, ...]
    addable: bool
    reads_image: bool

    def momenta(self, tensors: Mapping[str, Tensor], optimiser: torch.optim.Optimizer | None) -> dict[str, Tensor]:
        """Returns the momentum of each maker that has one."""
        found: dict[str, Tensor] = {}
        for axis in self.makers if optimiser is not None else ():
            assert optimiser is not None
            buffer = optimiser.state.get(tensors[axis.name], {}).get("momentum_buffer")
            if buffer is not None:
                found[axis.name] = buffer
        return found


def group_axes(network: TracedNetwork) -> tuple[GroupAxes, ...]:
    """Returns where each group of a network lies."""
    added = {call.weight for call in network.calls if solvable(call)}
    found = []
    for index, group in enumerate(network.groups):
        makers: list[ChannelAxis] = []
        readers: list[ChannelAxis] = []
        addable = True
        for axis in network.axes:
            layout = network.channels[axis.channels]
            if index not in layout.members:
                continue
            positions = layout.positions(index)
            place = ChannelAxis(
                axis.names[0], axis.axis, axis.role, positions, layout.channel[positions], width=group.width
            )
            (readers if axis.role is Role.CONSUMES else makers).append(place)
            addable &= place.is_even and (axis.role is not Role.CONSUMES or not added.isdisjoint(axis.names))
        made = {axis.name for axis in makers}
        calls = tuple(call for call in network.calls if call.weight in made)
        stem = any(axis.role is Role.PRODUCES and _reads_image(network, axis.name) for axis in makers)
        found.append(GroupAxes(index, group.width, tuple(makers), tuple(readers), calls, addable, stem))
    return tuple(found)


def _reads_image(network: TracedNetwork, weight: str) -> bool:
    first = network.calls[0] if network.calls else None
    return first is not None and first.weight == weight


def mix_channels(
    model: nn.Module, group: GroupAxes, matrix: Tensor, *, optimiser: torch.optim.Optimizer | None = None
) -> None:
    """Replaces every channel of a group by a mean of channels, in all member layers, batch norms and momenta.

    Args:
        model: the network, edited in place.
        group: where its channels lie.
        matrix: (N, N) float64, rows sum to 1.
        optimiser: whose momentum is mixed alike: otherwise it pulls members apart at once.
    """
    tensors = named_tensors(model)
    momenta = group.momenta(tensors, optimiser)
    for axis in group.makers:
        axis.mix(tensors[axis.name], matrix)
        if axis.name in momenta:
            axis.mix(momenta[axis.name], matrix)


def clear_momentum(model: nn.Module, group: GroupAxes, channels: Mask, optimiser: torch.optim.Optimizer | None) -> None:
    """Zeroes the momentum of the channels of an (N,) mask in every tensor that makes them."""
    momenta = group.momenta(named_tensors(model), optimiser)
    for axis in group.makers:
        if axis.name in momenta:
            axis.clear(momenta[axis.name], channels)


class EditingHook(Hook):
    """Edits the network at evenly spaced steps of a training, between two steps.

    An edit is due after a step and made before the next forward, or at the end of the epoch, so that a checkpoint
    holds the edited network: made when the gradients are ready, the step would move it on at once by gradients of
    the network before the edit.

    Attributes:
        model: the network under training, once it has begun.
        optimiser: its optimiser while it lasts.
    """

    def __init__(self, *, steps: int, edits: int) -> None:
        """Plans the edits.

        Args:
            steps: optimiser steps of the whole training.
            edits: how many edits, spread over them; never more than one a step.
        """
        self.steps = max(1, steps)
        self.edits = max(1, min(edits, self.steps))
        self.model: nn.Module | None = None
        self.optimiser: torch.optim.Optimizer | None = None
        self._done = 0
        self._edited = 0
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def edit(self, model: nn.Module, progress: float) -> None:
        """Changes the network when the share `progress` in (0, 1] of the training is over; override it."""
        raise NotImplementedError

    def watch(self, model: nn.Module, *, until_edit: int) -> None:
        """Looks at the gradients of a step, the next edit being due after `until_edit` more; override if needed."""

    def begin(self, state: TrainingState) -> None:
        """Attaches itself to the network."""
        self.model, self.optimiser = state.model, state.optimiser
        self._handles = [state.model.register_forward_pre_hook(lambda *_: self._catch_up())]

    def gradients_ready(self) -> None:
        """Counts the step."""
        assert self.model is not None
        self._done += 1
        due = math.ceil((self._edited + 1) * self.steps / self.edits)
        self.watch(self.model, until_edit=max(0, due - self._done))

    def epoch_ended(self, epoch: int) -> None:  # noqa: ARG002 - the count of steps says more
        """Makes the edit that is due."""
        self._catch_up()

    def end(self) -> None:
        """Detaches itself."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.optimiser = None

    def state_dict(self) -> dict[str, Any]:
        """Returns how far the training has come."""
        return {"done": self._done, "edited": self._edited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from there."""
        self._done, self._edited = int(state["done"]), int(state["edited"])

    def _catch_up(self) -> None:
        due = self._done * self.edits // self.steps
        if due > self._edited and self.model is not None:
            self._edited = due
            with torch.no_grad():
                self.edit(self.model, self._done / self.steps)


def edit_count(epochs: float, per_epoch: float) -> int:
    """Returns how many edits a training has: `per_epoch`, but at least 8 in all."""
    return max(FEWEST_EDITS, round(epochs * per_epoch))


def training_recipe(subject: Subject, *, learning_rate: float, batch_size: int, distillation: float) -> Recipe:
    """Returns the recipe of a training from a checkpoint: that of finetuning a cut network.

    Args:
        subject: its epochs and training images are those of the training.
        learning_rate: 0 for that of `finetune_recipe`.
        batch_size: images per step; where no rate is given, few images are trained on in smaller ones.
        distillation: share of the dense network's divergence in the loss.

    Raises:
        ConfigError: a value is out of range.
    """
    base = finetune_recipe(subject.epochs, images=max(1, len(subject.training)), batch_size=batch_size)
    base = replace(base, distillation=distillation)
    return replace(base, learning_rate=learning_rate, batch_size=batch_size) if learning_rate else base


def train_with(subject: Subject, model: nn.Module, hook: Hook, recipe: Recipe, *, distil: bool) -> dict[str, float]:
    """Trains the model with the hook on the subject's training images; returns facts about it."""
    report = train(
        model,
        subject.data.train,
        subject.training,
        recipe,
        seed=subject.seed,
        teacher=subject.model if distil else None,
        augmentation=subject.data.augmentation,
        device=subject.device,
        hooks=(hook,),
        on_step=lambda done, total: subject.progress(done, total),
        task=subject.data.task,
    )
    # A teacher comes back as it was lent: on the subject's device, in eval mode.
    subject.model.eval()
    return {"epochs": report.epochs, "training_seconds": report.seconds, "training_loss": report.loss}


def steps_of(subject: Subject, recipe: Recipe) -> int:
    """Returns the optimiser steps of a training on the subject's images."""
    return recipe.steps(max(1, len(subject.training)))
