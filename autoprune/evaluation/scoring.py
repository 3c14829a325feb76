"""The hold-out, ready to be run through one cut network after another.

Its images are preprocessed once and stay on the device. On a CPU, channels lie last, and a batch is small enough that
what one operation writes is still in the cache when the next one reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.data.images import Images
from autoprune.evaluation.subject import Subject
from autoprune.models.cutting.folding import Form, fastest_form
from autoprune.tasks.base import Batches, Metrics, Task
from autoprune.tasks.registry import CLASSIFICATION
from autoprune.training.feed import make_feed

#: Floats of input per batch, by the kind of device: on a CPU 64 images of CIFAR-10.
_BATCH_FLOATS = {"cpu": 3 << 16}
_MOST_BATCH_FLOATS = 1 << 21
#: A hold-out of up to so many floats is kept preprocessed: 128 MiB, the usual one of CIFAR-10 takes 47.
_KEPT_FLOATS = 1 << 25
#: Images that tell whether a network can take a form.
_PROBES = 2


class Scorer:
    """Scores cut networks of one subject on its hold-out."""

    def __init__(self, subject: Subject, device: torch.device) -> None:
        self._subject = subject
        self._device = device

    @cached_property
    def form(self) -> Form:
        """How networks of this subject are run."""
        subject = self._subject
        return fastest_form(subject.model, subject.network, subject.calibration_images[:_PROBES])

    def score(self, model: nn.Module, images: int, *, parts: int = 1) -> Metrics:
        """Returns what the task says of a network on the first so many images of the hold-out.

        Args:
            model: in eval mode; it is brought into the form.
            images: how many, at most.
            parts: what batches are divided by, where memory is short.
        """
        subject, count = self._subject, min(images, len(self._subject.holdout))
        model = self.form.put_on(model, subject.network)
        size = _batch_size(subject.holdout, self._device, most=subject.task.largest_batch, parts=parts)
        kept = parts == 1 and subject.holdout.take([0]).numel() * len(subject.holdout) <= _KEPT_FLOATS
        batches = first(self._whole, count) if kept else self._loaded(count, size)
        return subject.task.judge(model, batches, subject.dense_logits[:count])

    @cached_property
    def _whole(self) -> list[tuple[Tensor, Any]]:
        size = _batch_size(self._subject.holdout, self._device, most=self._subject.task.largest_batch, parts=1)
        return list(self._loaded(len(self._subject.holdout), size))

    def _loaded(self, count: int, size: int) -> Iterator[tuple[Tensor, Any]]:
        for inputs, targets in _batches(self._subject.holdout, np.arange(count), self._device, size=size):
            yield inputs.contiguous(memory_format=self.form.layout), targets


def first(batches: Iterable[tuple[Tensor, Any]], count: int) -> Iterator[tuple[Tensor, Any]]:
    """Yields the first `count` images of batches and their targets."""
    for inputs, targets in batches:
        if count <= 0:
            return
        yield inputs[:count], targets[:count]
        count -= len(inputs)


@torch.no_grad()
def logits_of(
    model: nn.Module,
    images: Images,
    indices: npt.NDArray[np.int64],
    device: torch.device,
    *,
    task: Task = CLASSIFICATION,
) -> Tensor:
    """Returns what a task wants to know of the dense network on the images at `indices`: (n, classes) logits."""
    size = _batch_size(images, device, most=task.largest_batch, parts=1)
    return task.reference(model, _batches(images, indices, device, size=size))


def _batch_size(images: Images, device: torch.device, *, most: int, parts: int) -> int:
    floats = _BATCH_FLOATS.get(device.type, _MOST_BATCH_FLOATS)
    whole = min(most, len(images), max(1, floats // max(1, images.take([0]).numel())))
    return max(1, -(-whole // parts))


def _batches(images: Images, indices: npt.NDArray[np.int64], device: torch.device, *, size: int) -> Batches:
    order = [np.arange(start, min(start + size, len(indices))) for start in range(0, len(indices), size)]
    return make_feed(images, indices, device).batches(order)
