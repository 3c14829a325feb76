"""Images of a torch data set, with whatever it says of each: a class, a class for every pixel, or boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from autoprune.data.annotations import Annotations
from autoprune.data.boxes import boxes_of
from autoprune.data.images import IntArray, require_finite
from autoprune.data.masks import masks_of
from autoprune.errors import DataError


def collated(items: list[Any]) -> Any:
    """Returns a batch as torch's `default_collate` makes it, but one mapping an image where targets are mappings."""
    if isinstance(items[0], list | tuple) and len(items[0]) > 1 and isinstance(items[0][1], Mapping):
        return tuple(zip(*items, strict=True))
    return default_collate(items)


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """A torch map-style data set that gives (float tensor, target), preprocessed by itself.

    A target is a class index; (H, W) class indices, 255 where a pixel does not count; or `boxes` and `labels`, as
    torchvision's detectors want them.

    Attributes:
        dataset: with `__len__` and `__getitem__`.
        collate: makes a batch of a list of items, as a DataLoader's `collate_fn` does.
        part: what messages call it.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any] = collated
    part: str = "data set"

    def __len__(self) -> int:
        """Returns N."""
        return len(self.dataset)

    @property
    def labels(self) -> IntArray:
        """(N,) class indices, of images that carry more than that their rarest class."""
        targets = self._targets
        return targets if isinstance(targets, np.ndarray) else targets.rarest_classes()

    @property
    def annotations(self) -> Annotations | None:
        """Boxes or masks; None where images carry a class each."""
        targets = self._targets
        return None if isinstance(targets, np.ndarray) else targets

    @cached_property
    def _targets(self) -> IntArray | Annotations:
        """All targets, read once and without loading images where the data set lists them."""
        listed = _listed_labels(self.dataset)
        if listed is not None:
            return masks_of(listed) if listed.ndim == 3 else class_indices(listed, images=len(self))
        targets = (self._batch([index])[1] for index in range(len(self)))
        first = next(targets, torch.zeros(0, dtype=torch.int64))
        loaded = chain([first], targets)
        if isinstance(first, list):
            return boxes_of(item[0] for item in loaded)
        if first.ndim == 3:
            return masks_of(item[0] for item in loaded)
        return class_indices(np.concatenate([np.atleast_1d(item.cpu().numpy()) for item in loaded]), images=len(self))

    def take(self, indices: npt.ArrayLike) -> Tensor:
        """Returns (n, C, H, W) float32 images on the CPU.

        Raises:
            DataError: the data set gives something else, or a value that is not finite.
        """
        positions = np.asarray(indices, dtype=np.int64).reshape(-1)
        images = self._batch([int(position) for position in positions])[0]
        if not images.is_floating_point() or images.ndim != 4:
            raise DataError(
                f"The data set gives images of type {images.dtype} and shape {tuple(images.shape[1:])}. "
                "Each must be a float tensor (C, H, W): add a transform such as torchvision's ToTensor."
            )
        # Images that another network made may still hang on its graph.
        return require_finite(images.detach().float(), positions, where=self.part)

    def _batch(self, positions: list[int]) -> tuple[Tensor, Any]:
        """Returns images and their targets: a tensor, or a list of one mapping an image."""
        try:
            batch = self.collate([self.dataset[position] for position in positions])
            if isinstance(batch, list | tuple) and batch and _all(batch[0], Tensor):
                batch = (torch.stack(list(batch[0])), *batch[1:])
        except Exception as error:
            raise DataError(
                f"The data set failed on image {positions[0]}: {type(error).__name__}: {error}. It must give "
                "(float tensor (C, H, W), target) pairs of one size."
            ) from error
        if not isinstance(batch, list | tuple) or len(batch) < 2 or not isinstance(batch[0], Tensor):
            raise DataError(f"The data set gives {type(batch).__name__} items, not (tensor, label) pairs.")
        if _all(batch[1], Mapping):
            return batch[0], list(batch[1])
        try:
            return batch[0], torch.stack(list(batch[1])) if _all(batch[1], Tensor) else torch.as_tensor(batch[1])
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"The label of image {positions[0]} is no number: {str(batch[1])[:60]}. Give class indices 0, 1, ... "
                "as integers."
            ) from error


def _all(items: Any, kind: type) -> bool:
    """Returns whether something is a list or tuple of that kind, and not empty."""
    return isinstance(items, list | tuple) and len(items) > 0 and all(isinstance(item, kind) for item in items)


def class_indices(labels: npt.NDArray[Any], *, images: int) -> IntArray:
    """Returns (N,) labels as class indices.

    Args:
        labels: (N,), or (N, 1), as the data set gives them.
        images: N.

    Raises:
        DataError: they are no whole numbers of at least 0, several belong to one image, or their number is not N.
    """
    advice = "Give class indices 0, 1, ... as integers, one for each image."
    if len(labels) != images:
        raise DataError(f"The data set has {images} images and {len(labels)} labels. {advice}")
    if labels.size != images:
        shape = "x".join(map(str, labels.shape[1:]))
        raise DataError(f"Each label of the data set has {shape} values. {advice} (Of one-hot labels: argmax(1).)")
    if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == np.bool_) and images:
        raise DataError(
            f"The labels of the data set are of type {labels.dtype}, such as {labels.reshape(-1)[0]}. {advice}"
        )
    if images and labels.min() < 0:
        raise DataError(f"The data set has the label {labels.min()}. {advice}")
    return labels.reshape(-1).astype(np.int64)


def _listed_labels(dataset: Any) -> npt.NDArray[Any] | None:
    """Returns (N,) labels that a data set lists, or None where every image would have to be loaded."""
    if isinstance(dataset, Subset):
        inner = _listed_labels(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [_listed_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return dataset.tensors[1].cpu().numpy()
    # A target_transform changes the labels that items carry, so the list cannot be trusted.
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        listed = getattr(dataset, name, None)
        if listed is not None and hasattr(listed, "__len__") and len(listed) == len(dataset):
            array = np.asarray(listed)
            if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
                return array
    return None
