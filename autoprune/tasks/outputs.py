"""Any outputs: what a network is for whose answers are no classes, on images that nobody has labelled.

Depths, embeddings, keypoints, boxes of a detector that is not torchvision's: whatever floating-point tensors a network
puts out, a row an image, a cut one is to put out again. Its metric is the *fidelity* V / (V + E), in the mean over
tensors: V is the variance over images of what the dense network answers, E the mean squared error of the cut one. It is
1 for the dense network itself and a half for what answers the mean to every image; with few errors it is R2.

Notation:
    D    numbers that a tensor holds for an image
    K    of them that are compared, of all tensors together: answers of many images would not fit into the memory
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.core.seeds import generator
from autoprune.errors import ModelError
from autoprune.tasks.base import Batches, ComparedByMetric, Meter, Metrics, Objective, require_finite
from autoprune.tasks.detectors import raw_outputs

#: K, shared evenly between tensors, of which each gives at least so many if it has them.
_COMPARED, _FEWEST = 1024, 64
#: A variance below this share of the mean square is what rounding leaves of a constant.
_CONSTANT = 1e-10


class Outputs(ComparedByMetric):
    """The dense network's own answers, whatever they are."""

    name: ClassVar[str] = "outputs"
    metric: ClassVar[str] = "fidelity"
    targets: ClassVar[str] = "nothing"
    batch_size: ClassVar[int] = 16
    learning_rate: ClassVar[float] = 0.01
    gradient_clip: ClassVar[float] = 10.0
    largest_batch: ClassVar[int] = 64
    #: Such networks tend to keep maps as large as the image, of which a few have positions enough.
    calibration_images: ClassVar[int] = 64
    answers: ClassVar[str] = "the network's first output (N, *)"

    def check_outputs(self, outputs: object, *, images: Tensor, classes: int, model: str, data: str) -> None:
        """Checks that there are finite numbers for every image."""
        del classes
        rows = rows_of(outputs, len(images))
        if not rows:
            raise ModelError(
                f"{model} puts out no floating-point tensor with a row for each image of {data}. Let its forward give "
                "(images, ...) tensors, alone or in tuples, lists and dictionaries."
            )
        for item in rows:
            require_finite(item, model=model, data=data)

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        teacher: nn.Module | None,
        objective: Objective,
        precision: AbstractContextManager[Any],
    ) -> Tensor:
        """Returns log(1 + E / V) over the batch, of what the teacher answers; without one, of the targets.

        That is the negative logarithm of the fidelity: a step is the smaller, the farther the answers are off.

        Networks of this kind often answer otherwise in training mode, so that nothing there can be compared. Their
        batch norms therefore keep their statistics, as is usual where batches are small.
        """
        del objective
        training = model.training
        model.eval()
        try:
            with precision:
                found = rows_of(raw_outputs(model, inputs), len(inputs))
                if teacher is not None:
                    with torch.no_grad():
                        wanted = rows_of(raw_outputs(teacher, inputs), len(inputs))
        finally:
            model.train(training)
        if teacher is None:
            sizes = [item.shape[1] for item in found]
            parts = [len(_places(size, len(sizes))) for size in sizes]
            found, wanted = _compared(found), list(torch.split(targets, parts, 1))
        missed = [_missed(mine, theirs) for mine, theirs in zip(found, wanted, strict=True)]
        return torch.stack(missed).log1p().mean()

    def served(self, model: nn.Module) -> nn.Module:
        """Returns a network of the first output alone."""
        return _FirstAlone(model).eval()

    def meter(self) -> Meter:
        """Returns a meter of the fidelity, and of what it lacks."""
        return _Meter()

    @torch.no_grad()
    def reference(self, model: nn.Module, batches: Batches) -> Tensor:
        """Returns (n, K) of what the dense network answers."""
        return torch.cat(
            [torch.cat(_compared(rows_of(raw_outputs(model, inputs), len(inputs))), 1) for inputs, _ in batches]
        )


class _FirstAlone(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        found = [item for item in tree_leaves(self.network(images)) if isinstance(item, Tensor)]
        return next(item for item in found if item.is_floating_point())


class _Meter:
    """Sums over images, for each of the K numbers, so that no batch has to be kept."""

    def __init__(self) -> None:
        self._images = 0
        self._parts: list[int] = []
        self._sums: Tensor | None = None

    def add(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        rows = _compared(rows_of(raw_outputs(model, inputs), len(inputs)))
        found, wanted = torch.cat(rows, 1).double(), targets.double()
        if found.shape != wanted.shape:
            raise ModelError("The model's outputs are of other sizes than the dense network's. Cut it again.")
        # Sums stay on the device: nothing waits for it until the end.
        sums = torch.stack([wanted.sum(0), wanted.square().sum(0), (found - wanted).square().sum(0)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._parts = [item.shape[1] for item in rows]
        self._images += len(inputs)

    def result(self) -> Metrics:
        assert self._sums is not None
        means, squares, errors = (self._sums / self._images).cpu()
        lacking = []
        for part in torch.split(torch.arange(len(means)), self._parts):
            size, error = float(squares[part].sum()), float(errors[part].sum())
            variance = size - float(means[part].square().sum())
            # Of what hardly varies the error counts as a share of its size.
            scale = variance if variance > _CONSTANT * size else size
            lacking.append(error / scale if scale > 0 else float(error > 0))
        fidelity = float(np.mean([1 / (1 + share) for share in lacking]))
        return {"accuracy": fidelity, Outputs.metric: fidelity, "loss": float(np.mean(lacking))}


def rows_of(outputs: object, images: int) -> list[Tensor]:
    """Returns every floating-point tensor with a row for each of so many images, as (images, D) float32."""
    return [
        item.reshape(images, -1).float()
        for item in tree_leaves(outputs)
        if isinstance(item, Tensor) and item.is_floating_point() and item.ndim and len(item) == images and item.numel()
    ]


def _compared(rows: Sequence[Tensor]) -> list[Tensor]:
    """Returns the numbers of (n, D) tensors that are compared, the same ones for every batch and network."""
    return [item[:, torch.from_numpy(_places(item.shape[1], len(rows))).to(item.device)] for item in rows]


@lru_cache(maxsize=256)
def _places(size: int, tensors: int) -> Any:
    """Returns the places among D numbers that are compared where there are so many tensors, int64 in rising order."""
    most = max(_FEWEST, _COMPARED // tensors)
    if size <= most:
        return np.arange(size)
    return np.sort(generator(size, "outputs").choice(size, most, replace=False))


def _missed(found: Tensor, wanted: Tensor) -> Tensor:
    """Returns E / V of (n, D) answers over a batch; where nothing varies, the error as a share of their size."""
    centred = wanted - wanted.mean(0)
    scale = centred.square().sum()
    size = wanted.square().sum()
    scale = torch.where(scale > 1e-6 * size, scale, size).clamp_min(torch.finfo(wanted.dtype).tiny)
    return (found - wanted).square().sum() / scale
