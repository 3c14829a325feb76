"""Pascal VOC's layout: `JPEGImages/ID.jpg`, `Annotations/ID.xml` with boxes, `ImageSets/Main/SPLIT.txt` with the IDs.

Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge". Coordinates are taken as written: VOC counts
pixels from 1, which is less than a pixel of the network's input. As SSD does, networks are trained on difficult boxes,
too; when detections are measured they do not count.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from autoprune.data.boxes import Boxes
from autoprune.errors import DataError, nearest, one_line

PREFIX = "voc:"
_LISTS = "Main"
_SUFFIXES = (".jpg", ".jpeg", ".png")
#: No annotation is larger; a file that is, is something else.
_LARGEST_FILE = 1 << 22

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one XML file says.

    Attributes:
        image: the image file.
        width: of the image in pixels.
        height: of the image in pixels.
        objects: (class, x1, y1, x2, y2, difficult) of every box with an area.
        empty: how many boxes have none.
    """

    image: Path
    width: int
    height: int
    objects: tuple[tuple[str, float, float, float, float, bool], ...]
    empty: int


@dataclass(frozen=True, slots=True)
class VocSplits:
    """The annotated images that are trained on and those that are tested on.

    Attributes:
        train: of `trainval`; of `train` where there is no `test`.
        test: of `test`, else of `val`.
        classes: their names.
    """

    train: tuple[Annotation, ...]
    test: tuple[Annotation, ...]
    classes: tuple[str, ...]


def read_voc(folder: Path, classes: Sequence[str] | None = None) -> VocSplits:
    """Returns the splits of a folder; of several years under one `VOCdevkit` each split is the union.

    Args:
        folder: that holds `Annotations`, or `VOCdevkit` with `VOC2007` and the like, or these.
        classes: names of the classes; None for those that the annotations of the training images name, sorted. Boxes
            of other classes are left out.

    Raises:
        DataError: the folder has another layout, a split is empty, or a file is missing or broken; it is named.
    """
    years = years_of(folder, "Annotations", lists=_LISTS)
    tested = [year for year in years if _has_annotated(year, "test")]
    parts = ("trainval", "test") if tested else ("train", "val")
    train = [item for year in years for item in _split(year, parts[0])]
    test = [item for year in tested or years for item in _split(year, parts[1])]
    for name, found in zip(parts, (train, test), strict=True):
        if not found:
            raise DataError(f"The split {name!r} of {folder} has no image. List them in ImageSets/Main/{name}.txt.")
    named = tuple(sorted({item[0] for annotation in train for item in annotation.objects}))
    if not named:
        raise DataError(f"No training image of {folder} has a box. Check the files in {years[0] / 'Annotations'}.")
    known = named if classes is None else tuple(classes)
    _tell(folder, (*train, *test), known)
    return VocSplits(tuple(train), tuple(test), known)


def boxes_of(annotations: Sequence[Annotation], classes: Sequence[str], size: tuple[int, int]) -> Boxes:
    """Returns the boxes in pixels of images that are stretched to (height, width) `size`."""
    place = {name: number for number, name in enumerate(classes)}
    starts, corners, labels, difficult = [0], [], [], []
    for annotation in annotations:
        across, down = size[1] / annotation.width, size[0] / annotation.height
        for name, x1, y1, x2, y2, hard in annotation.objects:
            if name in place:
                corners.append((x1 * across, y1 * down, x2 * across, y2 * down))
                labels.append(place[name])
                difficult.append(hard)
        starts.append(len(corners))
    return Boxes(
        np.array(starts, dtype=np.int64),
        np.array(corners, dtype=np.float32).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(difficult, dtype=np.bool_),
    )


def read_annotation(path: Path, image: Path) -> Annotation:
    """Returns what an annotation file says of an image.

    Raises:
        DataError: the file is missing or broken.
    """
    root = _parsed(path)
    try:
        width, height = (int(float(_text(root, f"size/{side}"))) for side in ("width", "height"))
    except ValueError:
        width = height = 0
    if min(width, height) < 1:  # left out or zero, as some tools write it
        width, height = image_size(image)
    objects, empty = [], 0
    for item in root.iter("object"):
        try:
            name = _text(item, "name")
            x1, y1, x2, y2 = (float(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError as error:
            raise DataError(f"{path}: {error} Repair the annotation or leave the image out of the split.") from error
        x1, x2 = (min(max(value, 0.0), float(width)) for value in (x1, x2))
        y1, y2 = (min(max(value, 0.0), float(height)) for value in (y1, y2))
        if x1 < x2 and y1 < y2:
            objects.append((name, x1, y1, x2, y2, (item.findtext("difficult") or "0").strip() == "1"))
        else:
            empty += 1
    return Annotation(image, width, height, tuple(objects), empty)


def _parsed(path: Path) -> ElementTree.Element:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise DataError(f"The annotation {path} is larger than {_LARGEST_FILE >> 20} MiB. It is no annotation.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"The annotation {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise DataError(f"The annotation {path} is not text in UTF-8. Convert it.") from error
    # Entities of a document type may read other files, or grow without end; no annotation has one.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"The annotation {path} declares a document type, which is not read. Remove the declaration.")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"The annotation {path} is broken XML ({one_line(error)}).") from error


def _text(element: ElementTree.Element, name: str) -> str:
    found = (element.findtext(name) or "").strip()
    if not found:
        raise ValueError(f"`{name}` is missing in <{element.tag}>.")
    return found


def image_size(image: Path) -> tuple[int, int]:
    """Returns the (width, height) of an image file.

    Raises:
        DataError: it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(image) as file:
            return file.size
    except Exception as error:
        raise DataError(f"Cannot read the image {image} ({type(error).__name__}). Repair or remove it.") from error


def years_of(folder: Path, annotations: str, *, lists: str) -> list[Path]:
    """Returns the folders that hold annotations of that kind.

    Raises:
        DataError: there is none.
    """
    folder = folder.expanduser()
    for place in (folder, folder / "VOCdevkit"):
        if (place / annotations).is_dir():
            return [place]
        found = sorted(year for year in place.glob("VOC*") if (year / annotations).is_dir())
        if found:
            return found
    raise DataError(
        f"{str(folder)!r} has not the layout of Pascal VOC: expected {folder / 'VOCdevkit' / 'VOC2007'} or "
        f"{folder / annotations}, with JPEGImages, {annotations} and ImageSets/{lists}."
    )


def listed(year: Path, split: str, *, lists: str) -> list[str]:
    """Returns the IDs that a split lists; none where there is no list, but for `trainval`: then those of its parts.

    Raises:
        DataError: the list cannot be read, or names a path.
    """
    path = year / "ImageSets" / lists / f"{split}.txt"
    names = _names_in(path) if path.is_file() else []
    if names or split != "trainval":
        return names
    return [*listed(year, "train", lists=lists), *listed(year, "val", lists=lists)]


def _names_in(path: Path) -> list[str]:
    try:
        names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {path} cannot be read ({type(error).__name__}).") from error
    stray = next((name for name in names if Path(name).name != name), None)
    if stray is not None:
        raise DataError(f"{path} names {stray!r}, which is a path, no ID.")
    return names


def image_of(year: Path, name: str, split: str) -> Path:
    """Returns the file of an image.

    Raises:
        DataError: it is missing.
    """
    image = next((path for end in _SUFFIXES if (path := year / "JPEGImages" / (name + end)).is_file()), None)
    if image is None:
        raise DataError(f"The image {year / 'JPEGImages' / name}.jpg of the split {split!r} is missing.")
    return image


def _has_annotated(year: Path, split: str) -> bool:
    """Returns whether a split has annotations: the test images of VOC 2012 are listed, but theirs are secret."""
    return any((year / "Annotations" / f"{name}.xml").is_file() for name in listed(year, split, lists=_LISTS))


def _split(year: Path, split: str) -> Iterable[Annotation]:
    for name in listed(year, split, lists=_LISTS):
        image = image_of(year, name, split)
        yield read_annotation(year / "Annotations" / f"{name}.xml", image)


def _tell(folder: Path, annotations: Sequence[Annotation], classes: Sequence[str]) -> None:
    """Says what is left out."""
    hollow = [annotation for annotation in annotations if annotation.empty]
    if hollow:
        count = sum(annotation.empty for annotation in hollow)
        _log.warning("%d boxes of %s have no area and are left out, first in %s.", count, folder, hollow[0].image.stem)
    strangers = sorted({item[0] for annotation in annotations for item in annotation.objects} - set(classes))
    if strangers:
        _log.warning(
            "Boxes of %s are left out: it is none of the classes.%s", strangers[0], nearest(strangers[0], classes)
        )
