"""Scenes composed of handwritten digits: several real scans on a dark, noisy canvas, with the class of every pixel.

No set of segmented photographs comes with any package here. The strokes are real, the scenes are not: digits are
enlarged, laid down without overlap and labelled where there is ink. It is a stand-in to try segmentation on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from autoprune.tasks.segmentation import IGNORED

#: Height and width of a scene in pixels, and of its digits: scans of 8, enlarged by up to a half.
SIDE = 32
_SIDES = (8, 10, 12)
_DIGITS = 5
#: Attempts at finding room for a digit; a scene that has none has a digit less.
_ATTEMPTS = 20
#: Ink of a stroke and of its rim, which belongs to nobody; greys of the noise, which lie below the rim's.
_STROKE, _RIM, _NOISE = 96, 48, 40

ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Scenes:
    """N scenes.

    Attributes:
        pixels: (N, 1, SIDE, SIDE) uint8.
        masks: (N, SIDE, SIDE) uint8: 0 for the background, one more than the digit, `IGNORED` around strokes.
    """

    pixels: ByteArray
    masks: ByteArray


def compose(digits: ByteArray, labels: npt.NDArray[np.int64], *, count: int, rng: np.random.Generator) -> Scenes:
    """Returns scenes of these digits alone.

    Args:
        digits: (n, 1, 8, 8) uint8.
        labels: (n,) from 0 to 9.
        count: of scenes.
        rng: chooses digits, sizes, places and noise.
    """
    enlarged = {side: _enlarged(digits, side) for side in _SIDES}
    pixels = rng.integers(0, _NOISE, (count, SIDE, SIDE), dtype=np.uint8)
    masks = np.zeros_like(pixels)
    for scene, mask in zip(pixels, masks, strict=True):
        taken = np.zeros((SIDE, SIDE), dtype=np.bool_)
        for digit in rng.integers(len(digits), size=_DIGITS):
            side = int(rng.choice(_SIDES))
            place = _free_place(taken, side, rng)
            if place is None:
                continue
            taken[place] = True
            ink = enlarged[side][digit]
            scene[place] = np.maximum(scene[place], ink)
            mask[place] = np.where(ink >= _STROKE, labels[digit] + 1, np.where(ink >= _RIM, IGNORED, 0))
    return Scenes(pixels[:, None], masks)


def _free_place(taken: npt.NDArray[np.bool_], side: int, rng: np.random.Generator) -> tuple[slice, slice] | None:
    for top, left in rng.integers(0, SIDE - side + 1, (_ATTEMPTS, 2)):
        place = (slice(int(top), int(top) + side), slice(int(left), int(left) + side))
        if not taken[place].any():
            return place
    return None


def _enlarged(digits: ByteArray, side: int) -> ByteArray:
    """Returns (n, side, side) bytes."""
    scans = torch.from_numpy(digits).float()
    larger = functional.interpolate(scans, size=(side, side), mode="bilinear", align_corners=False)
    enlarged: ByteArray = larger.round().clamp(0, 255).byte()[:, 0].numpy()
    return enlarged
