"""Sets of labelled images that hand out preprocessed batches: in memory, from a torch data set, or from a folder.

Notation:
    pixels  (N, C, H, W)  uint8
    labels  (N,)          int64, 0 <= label < number of classes; where images carry boxes, their rarest class
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from autoprune.data.boxes import Boxes
from autoprune.data.preprocessing import Preprocessing
from autoprune.errors import DataError

IntArray = npt.NDArray[np.int64]
PixelArray = npt.NDArray[np.uint8]
#: Images are resized to 256 before the crop to 224, as in torchvision's evaluation of its ImageNet weights.
_CROP_MARGIN = 256 / 224
#: Images decoded at a time.
DECODERS = 8


class Images(Protocol):
    """Labelled images."""

    @property
    def labels(self) -> IntArray:
        """(N,) class indices."""
        ...

    def __len__(self) -> int:
        """Returns N."""
        ...

    def take(self, indices: npt.ArrayLike) -> Tensor:
        """Returns (n, C, H, W) preprocessed float32 images on the CPU."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images held in memory as bytes; they may be read-only and shared between processes.

    Attributes:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64.
        preprocessing: applied by `take`.
        boxes: of every image, None where they carry none.
    """

    pixels: PixelArray
    labels: IntArray
    preprocessing: Preprocessing
    boxes: Boxes | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != np.uint8:
            raise DataError(f"Pixels must be uint8 of shape (N, C, H, W), not {self.pixels.dtype} {self.pixels.shape}.")
        if len(self.pixels) == 0 or len(self.labels) != len(self.pixels):
            raise DataError(f"There are {len(self.pixels)} images and {len(self.labels)} labels. Give one label each.")
        if self.boxes is not None and len(self.boxes) != len(self.pixels):
            raise DataError(f"There are {len(self.pixels)} images and boxes of {len(self.boxes)}. Give boxes for each.")
        if self.pixels.shape[1] != self.preprocessing.channels:
            raise DataError(
                f"The images have {self.pixels.shape[1]} channels, but the network's preprocessing is for "
                f"{self.preprocessing.channels}. Choose data that fits the network, or build it for these channels."
            )

    def __len__(self) -> int:
        """Returns N."""
        return len(self.pixels)

    def take(self, indices: npt.ArrayLike) -> Tensor:
        """Returns (n, C, H, W) preprocessed float32 images on the CPU."""
        return preprocess(self.pixels_at(indices), self.preprocessing)

    def pixels_at(self, indices: npt.ArrayLike) -> Tensor:
        """Returns (n, C, H, W) uint8."""
        # Fancy indexing copies, so that the tensor is writable even where the array is not.
        return torch.from_numpy(self.pixels[np.asarray(indices, dtype=np.int64)])


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """A torch map-style data set that gives (float tensor, int), preprocessed by itself.

    Attributes:
        dataset: with `__len__` and `__getitem__`.
        collate: makes a batch of a list of items, as a DataLoader's `collate_fn` does.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any] = default_collate

    def __len__(self) -> int:
        """Returns N."""
        return len(self.dataset)

    @cached_property
    def labels(self) -> IntArray:
        """(N,) class indices; read once, without loading images where the data set lists its labels."""
        known = _listed_labels(self.dataset)
        if known is None:
            loaded = [self._batch([index])[1].cpu().numpy() for index in range(len(self))]
            known = np.concatenate([np.atleast_1d(label) for label in loaded]) if loaded else np.zeros(0, np.int64)
        return class_indices(known, images=len(self))

    def take(self, indices: npt.ArrayLike) -> Tensor:
        """Returns (n, C, H, W) float32 images on the CPU."""
        positions = np.asarray(indices, dtype=np.int64).reshape(-1)
        images = self._batch([int(position) for position in positions])[0]
        if not images.is_floating_point() or images.ndim != 4:
            raise DataError(
                f"The data set gives images of type {images.dtype} and shape {tuple(images.shape[1:])}. "
                "Each must be a float tensor (C, H, W): add a transform such as torchvision's ToTensor."
            )
        return images.float()

    def _batch(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        try:
            batch = self.collate([self.dataset[position] for position in positions])
        except Exception as error:
            raise DataError(
                f"The data set failed on image {positions[0]}: {type(error).__name__}: {error}. It must give "
                "(float tensor (C, H, W), int) pairs of one size."
            ) from error
        if not isinstance(batch, list | tuple) or len(batch) < 2 or not isinstance(batch[0], Tensor):
            raise DataError(f"The data set gives {type(batch).__name__} items, not (tensor, label) pairs.")
        try:
            return batch[0], torch.as_tensor(batch[1])
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"The label of image {positions[0]} is no number: {str(batch[1])[:60]}. Give class indices 0, 1, ... "
                "as integers."
            ) from error


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files, decoded when they are taken.

    Attributes:
        paths: the files.
        labels: (N,) int64.
        preprocessing: with a size; the shorter side is resized a little larger before the centre crop.
    """

    paths: tuple[Path, ...]
    labels: IntArray
    preprocessing: Preprocessing

    def __len__(self) -> int:
        """Returns N."""
        return len(self.paths)

    def take(self, indices: npt.ArrayLike) -> Tensor:
        """Returns (n, C, H, W) preprocessed float32 images on the CPU.

        Raises:
            DataError: a file is unreadable; it is named.
        """
        positions = np.asarray(indices, dtype=np.int64).reshape(-1)
        # Decoding releases the interpreter lock, so threads suffice.
        with ThreadPoolExecutor(DECODERS) as pool:
            decoded = list(pool.map(self._decode, positions))
        return preprocess(torch.from_numpy(np.stack(decoded)), self.preprocessing)

    def _decode(self, position: int) -> PixelArray:
        from PIL import Image

        assert self.preprocessing.size is not None
        height, width = self.preprocessing.size
        path = self.paths[position]
        try:
            with Image.open(path) as file:
                image = file.convert("L" if self.preprocessing.channels == 1 else "RGB")
        except Exception as error:
            raise DataError(f"Cannot read the image {path} ({type(error).__name__}). Repair or remove it.") from error
        scale = _CROP_MARGIN * max(height / image.height, width / image.width)
        shape = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        image = image.resize(shape, Image.Resampling.BILINEAR)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.uint8)
        return pixels.reshape(height, width, -1).transpose(2, 0, 1)


def preprocess(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Returns (n, C, H, W) float32 network inputs of uint8 pixels, on their device."""
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(-1, 1, 1)
    # Division by 255, then by std: the order of torchvision's ToTensor and Normalize, to the last bit.
    images = pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
    return images if preprocessing.size is None else _resized(images, preprocessing.size)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns (n, C, *size) images: scaled until they cover the size, then centre cropped."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    scale = max(size[0] / height, size[1] / width)
    shape = (max(size[0], round(height * scale)), max(size[1], round(width * scale)))
    images = functional.interpolate(images, size=shape, mode="bilinear", antialias=True, align_corners=False)
    top, left = (shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2
    return images[..., top : top + size[0], left : left + size[1]]


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
