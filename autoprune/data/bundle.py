"""A training and a test set that belong together."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autoprune.data.boxed_files import BoxedFiles
from autoprune.data.images import DatasetImages, FolderImages, Images
from autoprune.data.preprocessing import NO_AUGMENTATION, Augmentation, Preprocessing
from autoprune.errors import DataError
from autoprune.tasks.base import Task
from autoprune.tasks.registry import CLASSIFICATION, DETECTION


@dataclass(frozen=True, eq=False)
class DataBundle:
    """What a search is run on.

    Attributes:
        name: as the user wrote it.
        train: images for calibration, hold-out and finetuning.
        test: images for the last word.
        classes: their names, in label order.
        input_shape: (channels, height, width) after preprocessing.
        preprocessing: what `train` and `test` apply to raw pixels; None if a data set does its own.
        augmentation: variation while finetuning.
        task: what networks do with them.
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    preprocessing: Preprocessing | None
    augmentation: Augmentation = NO_AUGMENTATION
    task: Task = CLASSIFICATION

    def doing(self, task: Task) -> DataBundle:
        """Returns the same images for another task.

        Raises:
            DataError: the task needs boxes and the images have none, or the other way round.
        """
        boxed = getattr(self.train, "boxes", None) is not None
        if boxed != task.boxed:
            has, needs = ("boxes", "one class an image") if boxed else ("one class an image", "boxes, as voc:DIR has")
            raise DataError(f"The images of {self.name!r} carry {has}, but the task {task.name!r} needs {needs}.")
        return replace(self, task=task)


def bundle_from(
    train: Any,
    test: Any,
    *,
    name: str = "custom",
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    augmentation: Augmentation = NO_AUGMENTATION,
) -> DataBundle:
    """Returns a bundle of two torch data sets, two DataLoaders, two (images, labels) pairs, or two `Images`.

    Of a DataLoader the data set and `collate_fn` are used; autoprune batches and shuffles itself.

    Args:
        train: gives (float tensor (C, H, W), int) items; a pair holds (N, C, H, W) floats and (N,) ints.
        test: likewise.
        name: shown in reports.
        classes: their names; by default the numbers 0, 1, ...
        preprocessing: what the data sets applied to raw pixels, if known; only recorded.
        augmentation: variation while finetuning; none by default, for a data set may do its own.

    Raises:
        DataError: a set is empty, cannot be indexed, or gives something else.
    """
    train_images, test_images = as_images(train), as_images(test)
    for part, images in (("training", train_images), ("test", test_images)):
        if len(images) == 0:
            raise DataError(f"The {part} set of {name!r} is empty.")
    shape = tuple(int(side) for side in train_images.take([0]).shape[1:])
    assert len(shape) == 3
    tested = tuple(int(side) for side in test_images.take([0]).shape[1:])
    if tested != shape:
        raise DataError(
            f"The training images of {name!r} are {_by(shape)} and its test images {_by(tested)} (channels x height x "
            "width). Bring both to one shape."
        )
    highest = int(max(train_images.labels.max(), test_images.labels.max()))
    names = tuple(str(label) for label in range(highest + 1)) if classes is None else tuple(classes)
    if highest >= len(names):
        raise DataError(f"{name!r} has the label {highest} but only {len(names)} classes. Labels count from 0.")
    task = CLASSIFICATION if getattr(train_images, "boxes", None) is None else DETECTION
    return DataBundle(name, train_images, test_images, names, shape, preprocessing, augmentation, task)


def missing_here(images: Images) -> str | None:
    """Returns in one sentence which file of these images is not on this machine, and what to do; None if all are."""
    paths = images.paths if isinstance(images, FolderImages | BoxedFiles) else ()
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is None:
        return None
    return (
        f"The image {str(missing)!r} is not on the machine {socket.gethostname()}. "
        "Put the image folder at the same path on every node"
    )


def as_images(source: Any) -> Images:
    """Returns `Images` of a data set, a DataLoader, an (images, labels) pair, or `Images`.

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
        return DatasetImages(inner, source.collate_fn)
    if isinstance(source, list | tuple) and len(source) == 2 and hasattr(source[0], "shape"):
        try:
            return DatasetImages(TensorDataset(torch.as_tensor(source[0]), torch.as_tensor(source[1])))
        except (AssertionError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"Cannot read the (images, labels) pair: {error}. Give as many labels as images."
            ) from error
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return DatasetImages(source)
    raise DataError(
        f"Cannot read images from a {type(inner).__name__}. Give a torch Dataset that has a length, a DataLoader of "
        "one, or (images, labels)."
    )


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
