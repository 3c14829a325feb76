"""How pixels become a network's input, and how training images are varied: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.errors import DataError


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a network expects: `(pixel / 255 - mean) / std`, after resizing if a size is given.

    Attributes:
        mean: per channel, of pixels scaled to [0, 1].
        std: per channel, above 0.
        size: (height, width) that images are brought to: shorter side resized, centre cropped; None keeps them.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise DataError(f"Preprocessing needs one mean and one std per channel, not {self.mean} and {self.std}.")
        if not all(std > 0 for std in self.std):
            raise DataError(f"Preprocessing has the std {self.std}. Every std must be above 0.")
        if self.size is not None and min(self.size) < 1:
            raise DataError(f"Preprocessing has the size {self.size}. Height and width must be at least 1.")

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists for JSON; `from_dict` reads them back."""
        return {"mean": list(self.mean), "std": list(self.std), "size": list(self.size) if self.size else None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Returns the preprocessing that `to_dict` wrote.

        Raises:
            DataError: a key is missing or a value is not a number.
        """
        try:
            size = values.get("size")
            return cls(
                tuple(float(value) for value in values["mean"]),
                tuple(float(value) for value in values["std"]),
                None if size is None else (int(size[0]), int(size[1])),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"Cannot read the preprocessing {dict(values)!r}. It needs `mean`, `std`, `size`."
            ) from error


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random variation of training images.

    Attributes:
        crop_padding: zeros around the image before a random crop to its size; 0 for no crop. Images that are read as
            bytes are padded before preprocessing, so with black; others after it.
        flip: mirror half of the images left to right.
        colour: largest change, as a share, of brightness, contrast and saturation; only of images with boxes or masks.
    """

    crop_padding: int = 0
    flip: bool = False
    colour: float = 0.0

    @property
    def does_anything(self) -> bool:
        """Whether images change at all."""
        return self.flip or self.crop_padding > 0 or self.colour > 0


NO_AUGMENTATION = Augmentation()


def unit_range(size: tuple[int, int] | None = None) -> Preprocessing:
    """Returns what torchvision's detectors expect: RGB pixels in [0, 1], which they standardise themselves."""
    return Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), size)


#: Statistics that torchvision's ImageNet weights were trained with.
IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 224))
#: What the pruning papers use for CIFAR-10: the std is a per-image mean, not that of all pixels.
CIFAR10 = Preprocessing((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = Preprocessing((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
MNIST = Preprocessing((0.1307,), (0.3081,))
FASHION_MNIST = Preprocessing((0.2860,), (0.3530,))
#: Mean and standard deviation of scikit-learn's 1,797 digits, whose greys 0..16 are stretched to 0..255.
DIGITS = Preprocessing((0.3053,), (0.3761,))
#: Raw pixels in [0, 255], as networks converted from Keras expect.
RAW = Preprocessing((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
