"""The boxes of many images as flat arrays, which workers can share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.errors import DataError, one_line

IntArray = npt.NDArray[np.int64]
#: One image's boxes, as torchvision's detectors want them, and which of them are difficult.
Target = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Boxes:
    """K boxes of N images.

    Attributes:
        starts: (N + 1,) int64; image i has the boxes starts[i] to starts[i + 1].
        corners: (K, 4) float32 x1, y1, x2, y2 in pixels of the network's input, x1 < x2 and y1 < y2.
        classes: (K,) int64 from 0.
        difficult: (K,) bool; not counted when detections are measured.
    """

    kind: ClassVar[str] = "boxes"

    starts: IntArray
    corners: npt.NDArray[np.float32]
    classes: IntArray
    difficult: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.corners)
        whole = len(self.starts) >= 1 and self.starts[0] == 0 and self.starts[-1] == count
        if self.corners.shape != (count, 4) or not whole or not len(self.classes) == len(self.difficult) == count:
            raise DataError(f"{count} boxes do not go with {len(self.classes)} classes and {len(self.starts)} starts.")
        if count and not (self.corners[:, :2] < self.corners[:, 2:]).all():
            raise DataError("A box has no area. Leave such boxes out.")

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.starts) - 1

    @property
    def highest(self) -> int:
        """The largest class; -1 where there is no box."""
        return int(self.classes.max(initial=-1))

    def of(self, image: int) -> slice:
        """Returns where the boxes of an image stand."""
        return slice(int(self.starts[image]), int(self.starts[image + 1]))

    def select(self, images: npt.ArrayLike) -> Boxes:
        """Returns the boxes of some images, in their order."""
        chosen = np.asarray(images, dtype=np.int64).reshape(-1)
        places = [np.arange(self.starts[image], self.starts[image + 1]) for image in chosen]
        index = np.concatenate(places) if places else np.empty(0, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum([len(place) for place in places])]).astype(np.int64)
        return Boxes(starts, self.corners[index], self.classes[index], self.difficult[index])

    def targets(self, images: npt.ArrayLike, device: torch.device) -> list[Target]:
        """Returns a mapping for each image: `boxes`, `labels` from 1, `difficult`; tensors of their own."""
        found = []
        for image in np.asarray(images, dtype=np.int64).reshape(-1):
            part = self.of(int(image))
            found.append(
                {
                    "boxes": torch.tensor(self.corners[part]).reshape(-1, 4).to(device),
                    "labels": torch.tensor(self.classes[part] + 1).to(device),
                    "difficult": torch.tensor(self.difficult[part]).to(device),
                }
            )
        return found

    def rarest_classes(self) -> IntArray:
        """Returns (N,) the class of each image that has the fewest boxes in all; images without a box have class 0."""
        counts = np.bincount(self.classes, minlength=1)
        parts = [self.classes[self.of(image)] for image in range(len(self))]
        return np.array([part[np.argmin(counts[part])] if len(part) else 0 for part in parts], dtype=np.int64)


def boxes_of(found: Iterable[Mapping[str, Any]]) -> Boxes:
    """Returns the boxes that a data set gives as torchvision's detectors want them: one mapping an image.

    Args:
        found: `boxes` (k, 4) corners x1, y1, x2, y2 in pixels; `labels` (k,) from 1, for 0 is the background; and, if
            need be, `difficult` (k,).

    Raises:
        DataError: something else was found.
    """
    corners, classes, difficult = [], [], []
    for image, target in enumerate(found):
        try:
            box = np.asarray(target["boxes"], dtype=np.float32).reshape(-1, 4)
            label = np.asarray(target["labels"]).reshape(-1)
            hard = np.asarray(target.get("difficult", np.zeros(len(box))), dtype=np.bool_).reshape(-1)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"The target of image {image} is no mapping of `boxes` (k, 4) and `labels` (k,): {one_line(error)}."
            ) from error
        if not len(box) == len(label) == len(hard):
            raise DataError(f"Image {image} has {len(box)} boxes and {len(label)} labels. Give a label for each box.")
        if len(label) and (not np.issubdtype(label.dtype, np.integer) or label.min() < 1):
            raise DataError(
                f"Image {image} has a box with the label {label.min()}. Count classes from 1, in integers: 0 is the "
                "background."
            )
        corners.append(box)
        classes.append(label.astype(np.int64) - 1)
        difficult.append(hard)
    starts = np.cumsum([0, *map(len, corners)]).astype(np.int64)
    return Boxes(starts, np.concatenate(corners), np.concatenate(classes), np.concatenate(difficult))
