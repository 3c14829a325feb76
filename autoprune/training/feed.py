"""Batches on a device: bytes moved there once where they fit, else loaded ahead by a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from autoprune.data.images import ArrayImages, Images, IntArray, preprocess

Vary = Callable[[Tensor], Tensor]
#: Of the free memory of a GPU, what the images of a training may take.
_DEVICE_SHARE = 0.25


class Feed(Protocol):
    """Hands out batches."""

    def batches(self, order: Iterable[IntArray], vary: Vary | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields ((n, C, H, W) float32, (n,) int64) on the device for every index array of `order`.

        Args:
            order: positions among the images that the feed was made for.
            vary: changes the images, for example crops them; called in order, in the caller's thread.
        """
        ...


def make_feed(images: Images, indices: IntArray, device: torch.device) -> Feed:
    """Returns the fastest feed of these images."""
    labels = torch.from_numpy(np.asarray(images.labels)[indices])
    if isinstance(images, ArrayImages):
        if device.type != "cuda":
            return _ArrayFeed(images, indices, labels=labels.to(device), device=device)
        size = images.pixels[:1].nbytes * len(indices)
        if size < _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            pixels = torch.from_numpy(images.pixels[indices]).to(device)
            return _ResidentFeed(images, pixels, labels=labels.to(device))
    return _LoadingFeed(images, indices, labels=labels, device=device)


class _ResidentFeed:
    """Pixels that lie on the device."""

    def __init__(self, images: ArrayImages, pixels: Tensor, *, labels: Tensor) -> None:
        self._preprocessing = images.preprocessing
        self._pixels = pixels
        self._labels = labels

    def batches(self, order: Iterable[IntArray], vary: Vary | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for positions in order:
            chosen = torch.from_numpy(positions).to(self._pixels.device)
            pixels = self._pixels[chosen]
            yield preprocess(pixels if vary is None else vary(pixels), self._preprocessing), self._labels[chosen]


class _ArrayFeed:
    """Pixels gathered from host memory without copying the set first: it may be shared between workers."""

    def __init__(self, images: ArrayImages, indices: IntArray, *, labels: Tensor, device: torch.device) -> None:
        self._images = images
        self._indices = indices
        self._labels = labels
        self._device = device

    def batches(self, order: Iterable[IntArray], vary: Vary | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for positions in order:
            pixels = torch.from_numpy(self._images.pixels[self._indices[positions]])
            pixels = pixels if vary is None else vary(pixels)
            inputs = preprocess(pixels.to(self._device), self._images.preprocessing)
            yield inputs, self._labels[torch.from_numpy(positions).to(self._device)]


class _LoadingFeed:
    """Images loaded by `take`, one batch ahead of the one in use."""

    def __init__(self, images: Images, indices: IntArray, *, labels: Tensor, device: torch.device) -> None:
        self._images = images
        self._indices = indices
        self._labels = labels
        self._device = device

    def batches(self, order: Iterable[IntArray], vary: Vary | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        with ThreadPoolExecutor(1) as loader:
            pending = None
            for positions in order:
                following = (loader.submit(self._images.take, self._indices[positions]), positions)
                if pending is not None:
                    yield self._on_device(pending[0].result(), pending[1], vary)
                pending = following
            if pending is not None:
                yield self._on_device(pending[0].result(), pending[1], vary)

    def _on_device(self, images: Tensor, positions: IntArray, vary: Vary | None) -> tuple[Tensor, Tensor]:
        inputs = images.to(self._device, non_blocking=True)
        labels = self._labels[torch.from_numpy(positions)].to(self._device)
        return (inputs if vary is None else vary(inputs)), labels
