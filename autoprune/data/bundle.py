"""Training, validation and test sets that belong together."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from autoprune.data.annotated_files import AnnotatedFiles
from autoprune.data.annotations import SAID, annotations_of, kind_of
from autoprune.data.dataset_images import DatasetImages
from autoprune.data.images import FolderImages, Images
from autoprune.data.masks import Masks
from autoprune.data.preprocessing import NO_AUGMENTATION, Augmentation, Preprocessing
from autoprune.data.splits import Split, split_apart, split_train
from autoprune.errors import DataError
from autoprune.tasks.base import Task
from autoprune.tasks.registry import CLASSIFICATION, TASKS_OF

#: More classes than any data set has: names are made for each, so that one identifier among the labels would fill the
#: memory before anybody hears what is wrong.
_MOST_CLASSES = 1 << 20


@dataclass(frozen=True, eq=False)
class DataBundle:
    """What a search is run on.

    Attributes:
        name: as the user wrote it.
        train: images for calibration and finetuning, and for the hold-out where there is no validation set.
        test: images for the last word.
        classes: their names, in label order.
        input_shape: (channels, height, width) after preprocessing.
        preprocessing: what `train` and `test` apply to raw pixels; None if a data set does its own.
        augmentation: variation while finetuning.
        task: what networks do with them.
        validation: images that score candidates and that nothing is trained on; None where training images are held
            out for it.
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    preprocessing: Preprocessing | None
    augmentation: Augmentation = NO_AUGMENTATION
    task: Task = CLASSIFICATION
    validation: Images | None = None

    @property
    def scoring(self) -> Images:
        """Images that score candidates: the validation set, or the training images of which some are held out."""
        return self.train if self.validation is None else self.validation

    @property
    def parts(self) -> tuple[Images, ...]:
        """Training and test images, and those of the validation set if there is one."""
        return (self.train, self.test) if self.validation is None else (self.train, self.test, self.validation)

    def split(self, *, holdout: int, calibration: int, seed: int) -> Split:
        """Returns which images score, calibrate and train.

        Args:
            holdout: number of images, of `scoring`.
            calibration: number of images, of `train`.
            seed: of the draw.

        Raises:
            DataError: there are too few images.
        """
        sizes = {"holdout": holdout, "calibration": calibration}
        if self.validation is None:
            return split_train(self.train.labels, **sizes, seed=seed)
        return split_apart(self.train.labels, self.validation.labels, **sizes, seed=seed)

    def from_anywhere(self) -> DataBundle:
        """Returns the same images for processes that work in another folder, where relative paths lead nowhere."""
        train, test, *validation = (_rooted(images) for images in self.parts)
        return replace(self, train=train, test=test, validation=next(iter(validation), None))

    def doing(self, task: Task) -> DataBundle:
        """Returns the same images for another task.

        Raises:
            DataError: the task needs boxes and the images have none, say.
        """
        kind = kind_of(self.train)
        if kind != task.targets:
            has = SAID[kind].partition(",")[0]
            raise DataError(
                f"The images of {self.name!r} carry {has}, but the task {task.name!r} needs {SAID[task.targets]}."
            )
        return replace(self, task=task)


def bundle_from(
    train: Any,
    test: Any,
    *,
    validation: Any = None,
    name: str = "custom",
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    augmentation: Augmentation = NO_AUGMENTATION,
) -> DataBundle:
    """Returns a bundle of torch data sets, DataLoaders, (images, labels) pairs, or `Images`.

    Of a DataLoader the data set and `collate_fn` are used; autoprune batches and shuffles itself.

    Args:
        train: gives (float tensor (C, H, W), target) items, see `DatasetImages`; a pair holds (N, C, H, W) floats and
            (N,) or (N, H, W) class indices.
        test: likewise.
        validation: likewise; None to hold training images out.
        name: shown in reports.
        classes: their names; by default the numbers 0, 1, ...
        preprocessing: what the data sets applied to raw pixels, if known; only recorded.
        augmentation: variation while finetuning; none by default, for a data set may do its own.

    Raises:
        DataError: a set is empty, cannot be indexed, or gives something else.
    """
    sources = {"training": train, "test": test, **({} if validation is None else {"validation": validation})}
    parts = {part: as_images(source, part=f"{part} set") for part, source in sources.items()}
    for part, images in parts.items():
        if len(images) == 0:
            raise DataError(f"The {part} set of {name!r} is empty.")
    shape = _common_shape(name, parts)
    kind = _common_kind(name, parts)
    highest = max(_highest(name, images, shape[1:]) for images in parts.values())
    if classes is None and highest >= _MOST_CLASSES:
        raise DataError(f"{name!r} has the label {highest}, which is no class index. Labels are 0, 1, ... in a row.")
    names = tuple(str(label) for label in range(highest + 1)) if classes is None else tuple(classes)
    if highest >= len(names):
        raise DataError(f"{name!r} has the label {highest} but only {len(names)} classes. Labels count from 0.")
    return DataBundle(
        name,
        parts["training"],
        parts["test"],
        names,
        shape,
        preprocessing,
        augmentation,
        TASKS_OF[kind],
        parts.get("validation"),
    )


def bundle_of(sets: Sequence[Any], *, name: str = "custom") -> DataBundle:
    """Returns a bundle of (train, test) or (train, validation, test), see `bundle_from`.

    Raises:
        DataError: there are more or fewer sets, or one of them is none.
    """
    if len(sets) not in (2, 3):
        raise DataError(f"The data are {len(sets)} sets. Give (training, test) or (training, validation, test).")
    train, *validation, test = sets
    return bundle_from(train, test, validation=validation[0] if validation else None, name=name)


def _common_shape(name: str, parts: Mapping[str, Images]) -> tuple[int, int, int]:
    first, *others = ((part, tuple(int(side) for side in images.take([0]).shape[1:])) for part, images in parts.items())
    for part, shape in others:
        if shape != first[1]:
            raise DataError(
                f"The {first[0]} images of {name!r} are {_by(first[1])} and its {part} images {_by(shape)} (channels x "
                "height x width). Bring both to one shape."
            )
    channels, height, width = first[1]
    return channels, height, width


def _common_kind(name: str, parts: Mapping[str, Images]) -> str:
    first, *others = ((part, kind_of(images)) for part, images in parts.items())
    for part, kind in others:
        if kind != first[1]:
            has, other = (SAID[found].partition(",")[0] for found in (first[1], kind))
            raise DataError(
                f"The {first[0]} images of {name!r} carry {has} and its {part} images {other}. Bring both to one."
            )
    return first[1]


def _highest(name: str, images: Images, sides: Sequence[int]) -> int:
    """Returns the largest class of images of these sides."""
    found = annotations_of(images)
    if isinstance(found, Masks) and found.values.shape[1:] != tuple(sides):
        raise DataError(
            f"The images of {name!r} are {_by(sides)} and its masks {_by(found.values.shape[1:])} (height x width). "
            "Bring both to one size."
        )
    return int(images.labels.max()) if found is None else found.highest


def _rooted(images: Images) -> Images:
    if not isinstance(images, FolderImages | AnnotatedFiles):
        return images
    return replace(images, paths=tuple(path.absolute() for path in images.paths))


def missing_here(images: Images) -> str | None:
    """Returns in one sentence which file of these images is not on this machine, and what to do; None if all are."""
    paths = images.paths if isinstance(images, FolderImages | AnnotatedFiles) else ()
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is None:
        return None
    return (
        f"The image {str(missing)!r} is not on the machine {socket.gethostname()}. "
        "Put the image folder at the same path on every node"
    )


def as_images(source: Any, *, part: str = "data set") -> Images:
    """Returns `Images` of a data set, a DataLoader, an (images, labels) pair, or `Images`.

    Args:
        source: any of these.
        part: what messages call it.

    Raises:
        DataError: it is none of these.
    """
    if hasattr(source, "take") and hasattr(source, "labels"):
        images: Images = source
        return images
    inner = source.dataset if isinstance(source, DataLoader) else source
    if isinstance(inner, IterableDataset):
        raise DataError(
            "An IterableDataset cannot be indexed, but autoprune draws its own images from a data set. Give one with "
            "__len__ and __getitem__, or (images, labels) tensors."
        )
    if isinstance(source, DataLoader) and hasattr(inner, "__len__"):
        own = source.collate_fn is not default_collate
        return DatasetImages(inner, source.collate_fn, part=part) if own else DatasetImages(inner, part=part)
    if isinstance(source, list | tuple) and len(source) == 2 and hasattr(source[0], "shape"):
        try:
            return DatasetImages(TensorDataset(torch.as_tensor(source[0]), torch.as_tensor(source[1])), part=part)
        except (AssertionError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"Cannot read the (images, labels) pair: {error}. Give as many labels as images."
            ) from error
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return DatasetImages(source, part=part)
    raise DataError(
        f"Cannot read images from a {type(inner).__name__}. Give a torch Dataset that has a length, a DataLoader of "
        "one, or (images, labels)."
    )


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
