"""Data sets by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.seeds import generator
from autoprune.data import preprocessing as known
from autoprune.data import scenes, unlabelled, voc, voc_masks
from autoprune.data.annotated_files import AnnotatedFiles
from autoprune.data.bundle import DataBundle, bundle_from, bundle_of
from autoprune.data.images import ArrayImages, FolderImages, IntArray, PixelArray, image_files, part_folders
from autoprune.data.masks import Masks
from autoprune.data.preprocessing import NO_AUGMENTATION, Augmentation, Preprocessing, unit_range
from autoprune.data.splits import stratified_order
from autoprune.errors import DataError, PluginError, nearest, one_line
from autoprune.plugins import call_factory, is_plugin
from autoprune.tasks.registry import make_task

_FOLDER = "imagefolder:"
#: Of image files, for a network that does not say what it expects; how large they are, its input says.
_FILES = replace(known.IMAGENET, size=None)
#: Sides of images of a network that does not say them: SSD300's.
_ANNOTATED_SIZE = (300, 300)
#: scikit-learn's digits are not divided: one image in five tests, one in five validates, always the same ones.
_DIGITS_SHARE = 0.2
_SCENES = "digits-scenes"
#: How many, of the digits of each part.
_SCENE_COUNTS = {"train": 1_500, "test": 400, "validation": 400}


@dataclass(frozen=True, slots=True)
class _TorchvisionSource:
    dataset: str
    probe: str  # a file that must exist below the root
    preprocessing: Preprocessing
    augmentation: Augmentation


_SOURCES = {
    "mnist": _TorchvisionSource("MNIST", "MNIST/raw/train-images-idx3-ubyte", known.MNIST, Augmentation(2)),
    "fashion-mnist": _TorchvisionSource(
        "FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte", known.FASHION_MNIST, Augmentation(2, flip=True)
    ),
    "cifar10": _TorchvisionSource(
        "CIFAR10", "cifar-10-batches-py/data_batch_1", known.CIFAR10, Augmentation(4, flip=True)
    ),
    "cifar100": _TorchvisionSource("CIFAR100", "cifar-100-python/train", known.CIFAR100, Augmentation(4, flip=True)),
}


def data_names() -> tuple[str, ...]:
    """Returns the names that `load_data` knows."""
    folders = (_FOLDER, unlabelled.PREFIX, voc.PREFIX, voc_masks.PREFIX)
    return ("digits", _SCENES, *_SOURCES, *(prefix + "DIR" for prefix in folders))


def load_data(
    spec: str,
    *,
    root: Path | None = None,
    preprocessing: Preprocessing | None = None,
    task: str | None = None,
    size: tuple[int, int] | None = None,
) -> DataBundle:
    """Returns a data set by name; nothing is ever downloaded.

    Args:
        spec: a name of `data_names()`, or `package.module:factory` whose result is a `DataBundle`, (train, test) or
            (train, validation, test).
        root: folder that holds the files of `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, and the DIR of `voc:DIR`
            and `voc-segmentation:DIR` where that is not in the working directory.
        preprocessing: what the network expects; None for the data set's own. A user's factory does its own.
        task: a name of `autoprune.tasks.registry`; None for what the images are for.
        size: (height, width) that image files are brought to where the preprocessing says none.

    Raises:
        DataError: the name is unknown, files are missing or unreadable, or the images do not fit the preprocessing or
            the task.
        ConfigError: the task is unknown.
        PluginError: a factory is missing or raises.
    """
    wanted = None if task is None else make_task(task)
    data = _load(spec, root, preprocessing, size or known.IMAGENET.size)
    return data if wanted is None else data.doing(wanted)


def _load(
    spec: str, root: Path | None, preprocessing: Preprocessing | None, size: tuple[int, int] | None
) -> DataBundle:
    if spec == "digits":
        return _digits(preprocessing or known.DIGITS)
    if spec == _SCENES:
        return _scenes(preprocessing or known.DIGITS)
    if spec in _SOURCES:
        return _from_torchvision(spec, root, preprocessing=preprocessing)
    if spec.startswith(_FOLDER):
        return _from_folder(spec, _sized(preprocessing or _FILES, size))
    if spec.startswith(unlabelled.PREFIX):
        return _from_images(spec, root, _sized(preprocessing or _FILES, size))
    if spec.startswith(voc.PREFIX):
        return _from_voc(spec, root, preprocessing or unit_range(_ANNOTATED_SIZE))
    if spec.startswith(voc_masks.PREFIX):
        return _from_voc_masks(spec, root, preprocessing or known.IMAGENET)
    if is_plugin(spec):
        return _from_factory(spec)
    if ":" in spec:
        raise DataError(f"Cannot read the data {spec!r}. Write package.module:factory, or a folder as images:DIR.")
    raise DataError(f"Unknown data {spec!r}.{nearest(spec, data_names())} Or write package.module:factory.")


def _digits(preprocessing: Preprocessing) -> DataBundle:
    classes = tuple(str(digit) for digit in range(10))
    # A pixel is an eighth of these images. A reconstructed network at 30 % of the FLOPs, finetuned for one epoch on all
    # but the hold-out, has there 96.6 % without shifts and 96.0 % with shifts by a pixel (means of three seeds); after
    # five epochs 96.8 and 95.5 %.
    return _in_memory("digits", _digits_parts(), classes, preprocessing, augmentation=NO_AUGMENTATION)


def _scenes(preprocessing: Preprocessing) -> DataBundle:
    """Training scenes hold training digits alone: nothing in a test scene has been seen."""
    parts = {}
    for part, (pixels, labels) in _digits_parts().items():
        made = scenes.compose(pixels, labels, count=_SCENE_COUNTS[part], rng=generator(0, _SCENES, part))
        masks = Masks(made.masks)
        parts[part] = ArrayImages(made.pixels, masks.rarest_classes(), preprocessing, masks)
    classes = ("background", *(str(digit) for digit in range(10)))
    return bundle_from(
        parts["train"],
        parts["test"],
        validation=parts["validation"],
        name=_SCENES,
        classes=classes,
        preprocessing=preprocessing,
    )


def _digits_parts() -> dict[str, tuple[PixelArray, IntArray]]:
    """Returns the (N, 1, 8, 8) pixels and the labels of the `train`, `test` and `validation` images."""
    table = _digits_table()
    pixels = np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    order = stratified_order(labels, generator(0, "digits"))
    share = round(_DIGITS_SHARE * len(order))
    test, validation, train = np.split(order, [share, 2 * share])
    return {
        part: (pixels[chosen], labels[chosen])
        for part, chosen in (("train", train), ("test", test), ("validation", validation))
    }


def _digits_table() -> npt.NDArray[np.float64]:
    """(1797, 65): 64 pixels in [0, 16] and the digit of every image that comes with scikit-learn.

    Read from its file where that lies as it has for years: to import `sklearn.datasets` takes two seconds of processor
    time, for pandas and half of SciPy.
    """
    found = importlib.util.find_spec("sklearn")
    path = Path(found.origin).with_name("datasets") / "data" / "digits.csv.gz" if found and found.origin else None
    if path is not None and path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    return np.column_stack([images, digits])


def _from_torchvision(spec: str, root: Path | None, *, preprocessing: Preprocessing | None) -> DataBundle:
    source = _SOURCES[spec]
    if root is None:
        raise DataError(f"The data set {spec!r} is read from a folder. Give --data-root DIR that holds {source.probe}.")
    probe = Path(root) / source.probe
    if not probe.is_file():
        raise DataError(f"The data set {spec!r} is missing: expected the file {probe}. Correct --data-root.")
    import torchvision

    make: Callable[..., Any] = getattr(torchvision.datasets, source.dataset)
    try:
        train, test = (make(root=str(root), train=part, download=False) for part in (True, False))
    except Exception as error:
        raise DataError(
            f"Cannot read the data set {spec!r} in {probe.parent} ({one_line(error)}). Files are missing or corrupt."
        ) from error
    return _in_memory(
        spec,
        {"train": _pixels_and_labels(train), "test": _pixels_and_labels(test)},
        tuple(str(name) for name in train.classes),
        preprocessing or source.preprocessing,
        augmentation=source.augmentation,
    )


def _pixels_and_labels(dataset: Any) -> tuple[PixelArray, IntArray]:
    """Returns (N, C, H, W) pixels and (N,) labels of a torchvision data set that holds (N, H, W[, C]) bytes."""
    pixels = np.asarray(dataset.data, dtype=np.uint8)
    pixels = pixels[:, None] if pixels.ndim == 3 else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return pixels, np.asarray(dataset.targets, dtype=np.int64)


def _in_memory(
    name: str,
    parts: Mapping[str, tuple[PixelArray, IntArray]],
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    *,
    augmentation: Augmentation,
) -> DataBundle:
    return bundle_from(
        **{part: ArrayImages(*found, preprocessing) for part, found in parts.items()},
        name=name,
        classes=classes,
        preprocessing=preprocessing,
        augmentation=augmentation,
    )


def _from_folder(spec: str, preprocessing: Preprocessing) -> DataBundle:
    folder = Path(spec.removeprefix(_FOLDER)).expanduser()
    parts = part_folders(folder)
    if parts is None:
        raise DataError(
            f"{str(folder)!r} is not an image folder: expected {folder / 'train'} and {folder / 'val'} or "
            f"{folder / 'test'}, or all three, with one folder of images per class in each."
        )
    classes = tuple(sorted(entry.name for entry in parts["train"].iterdir() if entry.is_dir()))
    return bundle_from(
        **{part: _folder_images(place, classes, preprocessing) for part, place in parts.items()},
        name=spec,
        classes=classes,
        preprocessing=preprocessing,
        augmentation=Augmentation(flip=True),
    )


def _folder_images(folder: Path, classes: tuple[str, ...], preprocessing: Preprocessing) -> FolderImages:
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    strangers = [name for name in found if name not in classes]
    if strangers:
        raise DataError(f"{folder} has the class {strangers[0]!r} that the training folder lacks.")
    paths: list[Path] = []
    labels: list[int] = []
    for name in found:
        files = image_files(folder / name)
        paths += files
        labels += [classes.index(name)] * len(files)
    if not paths:
        raise DataError(f"No image lies in {folder}. Put files such as .jpg or .png into one folder per class.")
    return FolderImages(tuple(paths), np.asarray(labels, dtype=np.int64), preprocessing)


def _from_images(spec: str, root: Path | None, preprocessing: Preprocessing) -> DataBundle:
    folder = _below(root, spec.removeprefix(unlabelled.PREFIX))
    if not folder.is_dir():
        raise DataError(f"The folder of images {str(folder)!r} does not exist. Correct {spec!r}.")
    return bundle_from(
        **unlabelled.read_folder(folder, preprocessing),
        name=spec,
        classes=(),
        preprocessing=preprocessing,
        augmentation=Augmentation(flip=True),
    )


def _from_voc(spec: str, root: Path | None, preprocessing: Preprocessing) -> DataBundle:
    sized = _sized(preprocessing, _ANNOTATED_SIZE)
    assert sized.size is not None
    splits = voc.read_voc(_below(root, spec.removeprefix(voc.PREFIX)))
    parts = [
        AnnotatedFiles(
            tuple(item.image for item in part),
            tuple((item.width, item.height) for item in part),
            voc.boxes_of(part, splits.classes, sized.size),
            sized,
        )
        for part in (splits.train, splits.test)
    ]
    return _annotated(spec, parts, splits.classes, sized)


def _from_voc_masks(spec: str, root: Path | None, preprocessing: Preprocessing) -> DataBundle:
    sized = _sized(preprocessing, _ANNOTATED_SIZE)
    assert sized.size is not None
    *splits, classes = voc_masks.read_voc_masks(_below(root, spec.removeprefix(voc_masks.PREFIX)), sized.size)
    parts = [AnnotatedFiles(split.images, split.sizes, split.masks, sized) for split in splits]
    return _annotated(spec, parts, classes, sized)


def _annotated(
    spec: str, parts: Sequence[AnnotatedFiles], classes: tuple[str, ...], preprocessing: Preprocessing
) -> DataBundle:
    return bundle_from(
        *parts,
        name=spec,
        classes=classes,
        preprocessing=preprocessing,
        augmentation=Augmentation(flip=True, colour=0.3),
    )


def _sized(preprocessing: Preprocessing, size: tuple[int, int] | None) -> Preprocessing:
    """Returns a preprocessing with a size, its own where it has one."""
    return replace(preprocessing, size=preprocessing.size or size)


def _below(root: Path | None, name: str) -> Path:
    """Returns a folder of the working directory, or of the root where it is not there."""
    folder = Path(name).expanduser()
    return root / folder if root is not None and not folder.is_dir() and (root / folder).is_dir() else folder


def _from_factory(spec: str) -> DataBundle:
    result = call_factory(spec)
    if isinstance(result, DataBundle):
        return result
    if isinstance(result, list | tuple) and len(result) in (2, 3):
        return bundle_of(result, name=spec)
    raise PluginError(
        f"{spec!r} returned a {type(result).__name__}, not a (train, test) pair, a (train, validation, test) triple or "
        "a DataBundle."
    )
