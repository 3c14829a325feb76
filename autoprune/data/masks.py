"""The class of every pixel of many images, as bytes that workers can share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.errors import DataError
from autoprune.tasks.segmentation import IGNORED

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of N images.

    Attributes:
        values: (N, H, W) uint8, a class from 0, or `IGNORED`; H and W are those of the network's input.
    """

    kind: ClassVar[str] = "masks"

    values: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype != np.uint8:
            raise DataError(f"Masks must be uint8 of shape (N, H, W), not {self.values.dtype} {self.values.shape}.")

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.values)

    @property
    def highest(self) -> int:
        """The largest class; -1 where no pixel counts."""
        counted = self.values[self.values != IGNORED]
        return int(counted.max()) if counted.size else -1

    def select(self, images: npt.ArrayLike) -> Masks:
        """Returns the masks of some images, in their order."""
        return Masks(self.values[np.asarray(images, dtype=np.int64).reshape(-1)])

    def targets(self, images: npt.ArrayLike, device: torch.device) -> Tensor:
        """Returns (n, H, W) int64."""
        return torch.from_numpy(self.select(images).values).to(device).long()

    def rarest_classes(self) -> IntArray:
        """Returns (N,) the class of each image that has the fewest pixels in all; images where none counts have 0."""
        counts = np.stack([np.bincount(mask.reshape(-1), minlength=IGNORED + 1) for mask in self.values])[:, :IGNORED]
        rarity = np.where(counts > 0, counts.sum(0), np.iinfo(np.int64).max)
        rarest: IntArray = rarity.argmin(1).astype(np.int64)
        return rarest


def masks_of(found: Iterable[Tensor | npt.NDArray[Any]]) -> Masks:
    """Returns the masks that a data set gives, (H, W) class indices each.

    Raises:
        DataError: they are no whole numbers from 0 to 255, or of several sizes.
    """
    made: list[npt.NDArray[np.uint8]] = []
    for image, mask in enumerate(found):
        values = np.asarray(mask)
        whole = values.ndim == 2 and values.size > 0 and np.issubdtype(values.dtype, np.integer)
        if not whole or not 0 <= values.min() <= values.max() <= IGNORED:
            wrong = f"the values {values.min()} to {values.max()}" if whole else f"{values.dtype} {values.shape}"
            raise DataError(
                f"The mask of image {image} is {wrong}. Give (H, W) class indices 0, 1, ... as integers, and {IGNORED} "
                "where a pixel does not count."
            )
        if made and values.shape != made[0].shape:
            one, other = ("x".join(map(str, shape)) for shape in (values.shape, made[0].shape))
            raise DataError(f"The mask of image {image} is {one} and that of image 0 {other}. Bring all to one size.")
        made.append(values.astype(np.uint8))
    return Masks(np.stack(made) if made else np.empty((0, 1, 1), dtype=np.uint8))
