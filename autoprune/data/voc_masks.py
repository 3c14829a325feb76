"""Pascal VOC's layout of segmentation: `JPEGImages/ID.jpg`, `SegmentationClass/ID.png`, `ImageSets/Segmentation/*.txt`.

A mask is a PNG of the size of its image whose pixels are class indices, by a palette or as greys: 0 is the background,
255 what does not count. Where `class_names.txt` lies in the folder, it names the classes, one a line, the background
first (as labelme's converter writes it); elsewhere the classes are those that the training masks have.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoprune.data.images import DECODERS
from autoprune.data.masks import Masks
from autoprune.data.voc import image_of, image_size, listed, years_of
from autoprune.errors import DataError
from autoprune.tasks.segmentation import IGNORED

PREFIX = "voc-segmentation:"
_MASKS, _LISTS, _NAMES = "SegmentationClass", "Segmentation", "class_names.txt"


@dataclass(frozen=True, slots=True)
class MaskedSplit:
    """Images of a split.

    Attributes:
        images: their files.
        sizes: (width, height) of each.
        masks: of each, stretched to the size of the network's input.
    """

    images: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    masks: Masks


def read_voc_masks(folder: Path, size: tuple[int, int]) -> tuple[MaskedSplit, MaskedSplit, tuple[str, ...]]:
    """Returns what is trained on, what is tested on, and the names of the classes.

    As with boxes: `trainval` and `test`, or `train` and `val` where no test mask is there, as in VOC itself.

    Args:
        folder: that holds `SegmentationClass`, or `VOCdevkit` with `VOC2012` and the like, or these.
        size: (height, width) that masks are stretched to.

    Raises:
        DataError: the folder has another layout, a split is empty, or a file is missing or wrong; it is named.
    """
    years = years_of(folder, _MASKS, lists=_LISTS)
    tested = [year for year in years if _has_masks(year, "test")]
    parts = ("trainval", "test") if tested else ("train", "val")
    train = [pair for year in years for pair in _pairs(year, parts[0])]
    test = [pair for year in tested or years for pair in _pairs(year, parts[1])]
    for name, found in zip(parts, (train, test), strict=True):
        if not found:
            raise DataError(f"The split {name!r} of {folder} has no image. List them in ImageSets/{_LISTS}/{name}.txt.")
    names = _names(years)
    trained = _read(train, size, None if names is None else len(names), f"{_NAMES} names")
    names = names or tuple(str(number) for number in range(trained.masks.highest + 1))
    return trained, _read(test, size, len(names), "the training masks have"), names


def _has_masks(year: Path, split: str) -> bool:
    """Returns whether a split has masks: those of VOC's test images are secret."""
    return any((year / _MASKS / f"{name}.png").is_file() for name in listed(year, split, lists=_LISTS))


def _pairs(year: Path, split: str) -> list[tuple[Path, Path]]:
    found = []
    for name in listed(year, split, lists=_LISTS):
        mask = year / _MASKS / f"{name}.png"
        if not mask.is_file():
            raise DataError(f"The mask {mask} of the split {split!r} is missing. Add it, or take {name} off the list.")
        found.append((image_of(year, name, split), mask))
    return found


def _names(years: Sequence[Path]) -> tuple[str, ...] | None:
    path = next((year / _NAMES for year in years if (year / _NAMES).is_file()), None)
    if path is None:
        return None
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {path} cannot be read ({type(error).__name__}).") from error
    # labelme's name for what does not count, which is no class.
    found = tuple(line for line in lines if line and line != "__ignore__")
    if not 0 < len(found) <= IGNORED:
        raise DataError(f"{path} names {len(found)} classes. Write 1 to {IGNORED}, one a line.")
    return found


def _read(pairs: Sequence[tuple[Path, Path]], size: tuple[int, int], classes: int | None, known_by: str) -> MaskedSplit:
    # Decoding releases the interpreter lock, so threads suffice.
    with ThreadPoolExecutor(DECODERS) as pool:
        found = list(pool.map(lambda pair: _mask(*pair, size=size, classes=classes, known_by=known_by), pairs))
    masks, sizes = zip(*found, strict=True)
    return MaskedSplit(tuple(image for image, _ in pairs), tuple(sizes), Masks(np.stack(masks)))


def _mask(
    image: Path, mask: Path, *, size: tuple[int, int], classes: int | None, known_by: str
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Returns a mask, stretched, and its own (width, height)."""
    from PIL import Image

    try:
        with Image.open(mask) as file:
            file.load()
    except Exception as error:
        raise DataError(f"Cannot read the mask {mask} ({type(error).__name__}). Repair or remove it.") from error
    if file.mode not in ("P", "L", "1"):
        raise DataError(
            f"The mask {mask} is of the kind {file.mode}. Its pixels must be class indices: bytes, by a palette or as "
            "greys."
        )
    if file.size != image_size(image):
        found, wanted = ("x".join(map(str, sides)) for sides in (file.size, image_size(image)))
        raise DataError(f"The mask {mask} has {found} pixels, but its image has {wanted}. Repair one of them.")
    values = np.asarray(file, dtype=np.uint8)
    strange = values[(values != IGNORED) & (values >= (IGNORED if classes is None else classes))]
    if strange.size:
        raise DataError(
            f"The mask {mask} has the class {strange.max()}, but {known_by} {classes}, from 0. Correct it, or write "
            f"{IGNORED} where a pixel does not count."
        )
    # No mixture of two classes is a class.
    stretched = np.asarray(file.resize((size[1], size[0]), Image.Resampling.NEAREST), dtype=np.uint8)
    return stretched, file.size
