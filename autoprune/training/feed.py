"""Batches on a device: bytes moved there once where they fit, else loaded ahead by a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from autoprune.data.annotated_files import AnnotatedFiles
from autoprune.data.annotations import annotations_of
from autoprune.data.images import ArrayImages, Images, IntArray, preprocess
from autoprune.data.preprocessing import Preprocessing
from autoprune.devices import gpu_module, is_gpu

#: Changes images, and their targets where these must follow.
Vary = Callable[[Tensor, Any], tuple[Tensor, Any]]
#: Gives the targets of the images at (n,) positions, on the device.
_Targets = Callable[[IntArray], Any]
#: Of the free memory of a GPU, what the images of a training may take.
_DEVICE_SHARE = 0.25


class Feed(Protocol):
    """Hands out batches."""

    def batches(self, order: Iterable[IntArray], vary: Vary | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Yields (n, C, H, W) float32 images on the device and their targets for every index array of `order`.

        Targets are (n,) int64 class indices, (n, H, W) where images carry masks, or a mapping for each with boxes.

        Args:
            order: positions among the images that the feed was made for.
            vary: changes the images, for example crops them; called in order, in the caller's thread.
        """
        ...


def make_feed(images: Images, indices: IntArray, device: torch.device) -> Feed:
    """Returns the fastest feed of these images."""
    targets = _targets(images, indices, device)
    if isinstance(images, ArrayImages):
        if not is_gpu(device):
            return _ArrayFeed(images, indices, targets=targets, device=device)
        size = images.pixels[:1].nbytes * len(indices)
        if size < _DEVICE_SHARE * gpu_module(device).mem_get_info(device)[0]:
            pixels = torch.from_numpy(images.pixels[indices]).to(device)
            return _ResidentFeed(images, pixels, targets=targets)
    return _LoadingFeed(images, indices, targets=targets, device=device)


def _targets(images: Images, indices: IntArray, device: torch.device) -> _Targets:
    annotations = annotations_of(images)
    if annotations is not None:
        return lambda positions: annotations.targets(indices[positions], device)
    labels = torch.from_numpy(np.asarray(images.labels)[indices]).to(device)
    return lambda positions: labels[torch.from_numpy(positions).to(device)]


class _ResidentFeed:
    """Pixels that lie on the device."""

    def __init__(self, images: ArrayImages, pixels: Tensor, *, targets: _Targets) -> None:
        self._preprocessing = images.preprocessing
        self._pixels = pixels
        self._targets = targets

    def batches(self, order: Iterable[IntArray], vary: Vary | None = None) -> Iterator[tuple[Tensor, Any]]:
        for positions in order:
            pixels = self._pixels[torch.from_numpy(positions).to(self._pixels.device)]
            varied, targets = _varied(pixels, self._targets(positions), vary)
            yield preprocess(varied, self._preprocessing), targets


class _ArrayFeed:
    """Pixels gathered from host memory without copying the set first: it may be shared between workers."""

    def __init__(self, images: ArrayImages, indices: IntArray, *, targets: _Targets, device: torch.device) -> None:
        self._images = images
        self._indices = indices
        self._targets = targets
        self._device = device

    def batches(self, order: Iterable[IntArray], vary: Vary | None = None) -> Iterator[tuple[Tensor, Any]]:
        for positions in order:
            pixels, targets = _varied(self._images.pixels_at(self._indices[positions]), self._targets(positions), vary)
            yield preprocess(pixels.to(self._device), self._images.preprocessing), targets


class _LoadingFeed:
    """Images loaded one batch ahead of the one in use: as bytes where they can be had so, else by `take`."""

    def __init__(self, images: Images, indices: IntArray, *, targets: _Targets, device: torch.device) -> None:
        self._load: Callable[[IntArray], Tensor] = images.take
        self._preprocessing: Preprocessing | None = None
        if isinstance(images, AnnotatedFiles | ArrayImages):
            self._load, self._preprocessing = images.pixels_at, images.preprocessing
        self._indices = indices
        self._targets = targets
        self._device = device

    def batches(self, order: Iterable[IntArray], vary: Vary | None = None) -> Iterator[tuple[Tensor, Any]]:
        with ThreadPoolExecutor(1) as loader:
            pending = None
            for positions in order:
                following = (loader.submit(self._load, self._indices[positions]), positions)
                if pending is not None:
                    yield self._on_device(pending[0].result(), pending[1], vary)
                pending = following
            if pending is not None:
                yield self._on_device(pending[0].result(), pending[1], vary)

    def _on_device(self, images: Tensor, positions: IntArray, vary: Vary | None) -> tuple[Tensor, Any]:
        inputs, targets = _varied(images.to(self._device, non_blocking=True), self._targets(positions), vary)
        return (inputs if self._preprocessing is None else preprocess(inputs, self._preprocessing)), targets


def _varied(images: Tensor, targets: Any, vary: Vary | None) -> tuple[Tensor, Any]:
    return (images, targets) if vary is None else vary(images, targets)
