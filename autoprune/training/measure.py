"""Accuracy and loss of a network on images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.data.images import Images, IntArray
from autoprune.errors import DataError, ModelError
from autoprune.training.feed import make_feed

#: Floats of input per batch, at most: 500 ImageNet images at once would need gigabytes of activations.
_BATCH_FLOATS = 1 << 24


@dataclass(frozen=True, slots=True)
class Scores:
    """How well a network does.

    Attributes:
        accuracy: share of images whose highest logit is at their label, in [0, 1].
        loss: mean cross-entropy in nats; may be infinite or NaN for a broken network.
        images: how many were seen.
    """

    accuracy: float
    loss: float
    images: int


@torch.no_grad()
def measure(
    model: nn.Module,
    images: Images,
    indices: npt.ArrayLike | None = None,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 500,
) -> Scores:
    """Returns the scores of a model on images, in eval mode and float32; its own mode is restored.

    Args:
        model: is moved to the device.
        images: of which `indices` are used, or all.
        indices: (n,) positions.
        device: where to compute.
        batch_size: at most; large images are batched smaller.

    Raises:
        DataError: there is no image.
        ModelError: the model does not give (n, classes) logits with a class for every label.
    """
    chosen = np.arange(len(images)) if indices is None else np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(chosen) == 0:
        raise DataError("There is no image to measure on.")
    device = torch.device(device)
    was_training = model.training
    model.to(device).eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    try:
        for inputs, labels in make_feed(images, chosen, device).batches(_blocks(images, chosen, batch_size)):
            logits = as_logits(model(inputs), labels)
            correct += (logits.argmax(dim=1) == labels).sum()
            loss += functional.cross_entropy(logits.float(), labels, reduction="sum").double()
    finally:
        model.train(was_training)
    return Scores(int(correct) / len(chosen), float(loss) / len(chosen), len(chosen))


def as_logits(output: object, labels: Tensor) -> Tensor:
    """Returns a model's output if it is (n, classes) logits with a class for every label.

    Raises:
        ModelError: it is something else.
    """
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(labels):
        kind = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}"
        raise ModelError(f"The model's output has the {kind}, not (images, classes). Give a classifier.")
    # Checked on the host only: on a GPU the comparison would wait for the device at every step.
    if labels.device.type == "cpu" and int(labels.max()) >= output.shape[1]:
        raise ModelError(
            f"The data have the label {int(labels.max())}, but the model has {output.shape[1]} outputs. "
            "Build it with as many classes as the data have."
        )
    return output


def _blocks(images: Images, chosen: IntArray, batch_size: int) -> list[IntArray]:
    """Returns positions 0 .. n-1 in consecutive batches."""
    floats = images.take(chosen[:1]).numel()
    size = max(1, min(batch_size, _BATCH_FLOATS // floats))
    return [np.arange(start, min(start + size, len(chosen))) for start in range(0, len(chosen), size)]
