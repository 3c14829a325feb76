"""Images that nobody has labelled, of a folder or of a Python caller: the network to be cut says what is right.

One image in five tests the result, always the same ones, unless the folder says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from autoprune.core.seeds import generator
from autoprune.data.annotations import UNKNOWN, Annotations
from autoprune.data.answers import Answers
from autoprune.data.images import FolderImages, IntArray, image_files, part_folders, require_finite
from autoprune.data.preprocessing import Preprocessing
from autoprune.errors import DataError

PREFIX = "images:"
_TEST_SHARE = 0.2
#: Images below which a fifth of them says nothing, and the rest too little.
_FEWEST = 10


@dataclass(frozen=True, eq=False)
class BareImages:
    """Images of a tensor, or of a torch data set whose items are tensors, preprocessed by themselves.

    Attributes:
        source: with `__len__` and `__getitem__`.
        labels: (N,) int64.
        annotations: of every image; None where they carry a class each, or nothing.
    """

    source: Any
    labels: IntArray
    annotations: Annotations | None = None

    def __len__(self) -> int:
        """Returns N."""
        return len(self.source)

    def take(self, indices: npt.ArrayLike) -> Tensor:
        """Returns (n, C, H, W) float32 images on the CPU.

        Raises:
            DataError: an item is no float tensor (C, H, W), not of the size of the others, or not finite.
        """
        positions = np.asarray(indices, dtype=np.int64).reshape(-1)
        try:
            images = torch.stack([_image(self.source[int(position)]) for position in positions]).float().cpu()
        except DataError:
            raise
        except Exception as error:  # a user's own data set may raise anything
            raise DataError(
                f"The images without labels failed at image {positions[0]}: {type(error).__name__}: {error}. "
                "They must be float tensors (C, H, W) of one size."
            ) from error
        return require_finite(images, [self._place(int(position)) for position in positions], where="data")

    def _place(self, position: int) -> int:
        """Returns where an image of this part lies in what the caller gave."""
        return self.source.indices[position] if isinstance(self.source, Subset) else position


Unlabelled = FolderImages | BareImages


def labelled(images: Unlabelled, labels: IntArray) -> Unlabelled:
    """Returns the same images with (N,) labels."""
    return replace(images, labels=labels)


def answered(images: Unlabelled, values: npt.NDArray[np.float32]) -> Unlabelled:
    """Returns the same images with (N, K) answers of a network."""
    return replace(images, annotations=Answers(values))


def read_folder(folder: Path, preprocessing: Preprocessing) -> dict[str, FolderImages]:
    """Returns the images of a folder and of all folders in it, {`train`: ..., `test`: ...} and perhaps `validation`.

    The folder may say itself which are which, see `part_folders`.

    Raises:
        DataError: there are too few.
    """
    places = part_folders(folder)
    if places is None:
        files = dict(zip(("train", "test"), _parted(image_files(folder), str(folder)), strict=True))
    else:
        files = {part: image_files(place) for part, place in places.items()}
        for part, place in places.items():
            _require_enough(len(files[part]), str(place))
    return {part: FolderImages(tuple(found), _unknown(len(found)), preprocessing) for part, found in files.items()}


def bare_images(source: Any) -> tuple[BareImages, BareImages]:
    """Returns training and test images of an (N, C, H, W) float tensor, or of a data set or loader of such images.

    Raises:
        DataError: there are too few, they cannot be indexed, or they come with labels.
    """
    inner = source.dataset if isinstance(source, DataLoader) else source
    if isinstance(inner, IterableDataset) or not hasattr(inner, "__len__"):
        raise DataError(
            "Images without labels are drawn by autoprune itself. Give a data set with __len__ and __getitem__."
        )
    parts = _parted(range(len(inner)), "the data")
    train, test = (BareImages(Subset(inner, list(part)), _unknown(len(part))) for part in parts)
    return train, test


def are_bare(data: Any) -> bool:
    """Returns whether a Python caller's data are images alone."""
    return isinstance(data, Tensor | DataLoader | Dataset)


def _image(item: Any) -> Tensor:
    if isinstance(item, list | tuple):
        raise DataError(
            "One set of images with labels is not enough: give a pair (training set, test set). Of a set without "
            "labels every item is a float tensor (C, H, W) alone."
        )
    if not isinstance(item, Tensor) or item.ndim != 3 or not item.is_floating_point():
        kind = f"{item.dtype} {tuple(item.shape)}" if isinstance(item, Tensor) else type(item).__name__
        raise DataError(f"An image without a label is a {kind}, not a float tensor (C, H, W).")
    return item


def _parted(items: Sequence[Any], where: str) -> list[list[Any]]:
    _require_enough(len(items), where)
    order = generator(0, "images without labels").permutation(len(items))
    tests = set(order[: round(_TEST_SHARE * len(items))].tolist())
    return [[item for index, item in enumerate(items) if (index in tests) is tested] for tested in (False, True)]


def _require_enough(count: int, where: str) -> None:
    if count < _FEWEST:
        raise DataError(
            f"There are {count} images in {where}, but {_FEWEST} are the fewest. A few hundred are a good number."
        )


def _unknown(count: int) -> IntArray:
    return np.full(count, UNKNOWN, dtype=np.int64)
