"""The metric and the loss of a network on images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from autoprune.data.images import Images, IntArray
from autoprune.errors import DataError
from autoprune.tasks.base import Task
from autoprune.tasks.registry import CLASSIFICATION
from autoprune.training.feed import make_feed

#: Floats of input per batch, at most: 500 ImageNet images at once would need gigabytes of activations.
_BATCH_FLOATS = 1 << 24


@dataclass(frozen=True, slots=True)
class Scores:
    """How well a network does.

    Attributes:
        accuracy: the task's metric in [0, 1]; of a classifier the share whose highest logit is at the label.
        loss: mean per image; of a classifier the cross-entropy in nats. May be infinite or NaN for a broken network.
        images: how many were seen.
        metrics: everything that the task measures.
    """

    accuracy: float
    loss: float
    images: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@torch.no_grad()
def measure(
    model: nn.Module,
    images: Images,
    indices: npt.ArrayLike | None = None,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 500,
    task: Task = CLASSIFICATION,
) -> Scores:
    """Returns the scores of a model on images, in eval mode and float32; its own mode is restored.

    Args:
        model: is moved to the device.
        images: of which `indices` are used, or all.
        indices: (n,) positions.
        device: where to compute.
        batch_size: at most; large images are batched smaller.
        task: what the network does.

    Raises:
        DataError: there is no image.
        ModelError: the model does not give what the task measures, such as logits with a class for every label.
    """
    chosen = np.arange(len(images)) if indices is None else np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(chosen) == 0:
        raise DataError("There is no image to measure on.")
    device = torch.device(device)
    was_training = model.training
    model.to(device).eval()
    meter = task.meter()
    try:
        blocks = _blocks(images, chosen, min(batch_size, task.largest_batch))
        for inputs, targets in make_feed(images, chosen, device).batches(blocks):
            meter.add(model, inputs, targets)
    finally:
        model.train(was_training)
    found = meter.result()
    return Scores(found["accuracy"], found["loss"], len(chosen), found)


def _blocks(images: Images, chosen: IntArray, batch_size: int) -> list[IntArray]:
    """Returns positions 0 .. n-1 in consecutive batches."""
    floats = images.take(chosen[:1]).numel()
    size = max(1, min(batch_size, _BATCH_FLOATS // floats))
    return [np.arange(start, min(start + size, len(chosen))) for start in range(0, len(chosen), size)]
