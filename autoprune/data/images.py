"""Sets of images that hand out preprocessed batches: in memory, or from a folder.

Notation:
    pixels  (N, C, H, W)  uint8
    labels  (N,)          int64, 0 <= label < number of classes; where images carry more than that, their rarest class;
                          -1 each where nobody has labelled them yet
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from autoprune.data.annotations import Annotations
from autoprune.data.preprocessing import Preprocessing
from autoprune.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

IntArray = npt.NDArray[np.int64]
PixelArray = npt.NDArray[np.uint8]
#: Images are resized to 256 before the crop to 224, as in torchvision's evaluation of its ImageNet weights.
_CROP_MARGIN = 256 / 224
#: Images decoded at a time.
DECODERS = 8
#: Of image files.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})


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
        annotations: of every image; None where they carry a class each.
    """

    pixels: PixelArray
    labels: IntArray
    preprocessing: Preprocessing
    annotations: Annotations | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != np.uint8:
            raise DataError(f"Pixels must be uint8 of shape (N, C, H, W), not {self.pixels.dtype} {self.pixels.shape}.")
        if len(self.pixels) == 0 or len(self.labels) != len(self.pixels):
            raise DataError(f"There are {len(self.pixels)} images and {len(self.labels)} labels. Give one label each.")
        if self.annotations is not None and len(self.annotations) != len(self.pixels):
            raise DataError(
                f"There are {len(self.pixels)} images and {self.annotations.kind} of {len(self.annotations)}. Give "
                "them for each."
            )
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


def image_files(folder: Path) -> list[Path]:
    """Returns the image files in a folder and the folders in it, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def part_folders(folder: Path) -> dict[str, Path] | None:
    """Returns where the images of a divided folder lie: {`train`: ..., `test`: ...} and perhaps `validation`.

    `val` is the validation set beside `test`, and the test set where there is no other; None if it is not divided.
    """
    train, *others = (folder / name for name in ("train", "val", "test"))
    found = [place for place in others if place.is_dir()]
    if not train.is_dir() or not found:
        return None
    return {"train": train, "test": found[-1], **({"validation": found[0]} if len(found) == 2 else {})}


def opened(path: Path, *, channels: int) -> Image.Image:
    """Returns the image in a file, in greys for one channel and in colours for three.

    Raises:
        DataError: the file is unreadable; it is named.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            return file.convert("L" if channels == 1 else "RGB")
    except Exception as error:
        raise DataError(f"Cannot read the image {path} ({type(error).__name__}). Repair or remove it.") from error


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files, decoded when they are taken.

    Attributes:
        paths: the files.
        labels: (N,) int64.
        preprocessing: with a size; images of another are resized to a little more before the centre crop.
        annotations: of every image; None where they carry a class each, or nothing.
    """

    paths: tuple[Path, ...]
    labels: IntArray
    preprocessing: Preprocessing
    annotations: Annotations | None = None

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
        image = opened(self.paths[position], channels=self.preprocessing.channels)
        if (image.height, image.width) == (height, width):
            return np.asarray(image, dtype=np.uint8).reshape(height, width, -1).transpose(2, 0, 1)
        scale = _CROP_MARGIN * max(height / image.height, width / image.width)
        shape = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        image = image.resize(shape, Image.Resampling.BILINEAR)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.uint8)
        return pixels.reshape(height, width, -1).transpose(2, 0, 1)


def require_finite(images: Tensor, positions: npt.ArrayLike, *, where: str) -> Tensor:
    """Returns the images, all of whose values are numbers: one that is not would be blamed on the network.

    Args:
        images: (n, C, H, W) floats.
        positions: (n,) of each, for the message.
        where: what they are counted in.

    Raises:
        DataError: an image holds NaN or an infinite value; it is named.
    """
    # One sum is a tenth of the work of looking at each value; a sum of large numbers may be infinite, too.
    if torch.isfinite(images.sum()):
        return images
    finite = torch.isfinite(images).flatten(1).all(1)
    if bool(finite.all()):
        return images
    first = int(torch.nonzero(~finite)[0])
    what = "NaN" if bool(images[first].isnan().any()) else "an infinite value"
    raise DataError(f"Image {np.asarray(positions)[first]} of the {where} holds {what}. Repair or remove it.")


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
