"""Tiny folders in Pascal VOC's layout of segmentation, and networks for them: coloured rectangles on grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

SIDE = 32
COLOURS = ((128, 128, 128), (30, 60, 220), (220, 40, 30))


def write_masked(year: Path, name: str, mask: np.ndarray, *, palette: bool = True) -> None:
    """Writes an image that has the colours of the classes in its mask, and the mask."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (year / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.asarray([*COLOURS, (255, 255, 255)], dtype=np.uint8)[np.minimum(mask, len(COLOURS))]
    Image.fromarray(pixels).save(year / "JPEGImages" / f"{name}.png")
    file = Image.fromarray(mask.astype(np.uint8))
    if palette:
        # All 256 entries: Pillow saves a shorter palette with fewer bits a pixel.
        file.putpalette([value for number in range(256) for value in COLOURS[number % len(COLOURS)]])
    file.save(year / "SegmentationClass" / f"{name}.png")


def write_split(year: Path, split: str, names) -> None:
    """Writes the list of a split."""
    (year / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def masks(count: int, *, side: int = SIDE) -> np.ndarray:
    """Returns (count, side, side) uint8 masks: one or two rectangles with a rim that does not count."""
    rng = np.random.default_rng(0)
    made = np.zeros((count, side, side), dtype=np.uint8)
    for number, mask in enumerate(made):
        for label in (1, 2)[: 1 + number % 2]:
            top, left = rng.integers(1, side // 2, 2)
            mask[top - 1 : top + side // 3 + 1, left - 1 : left + side // 3 + 1] = 255
            mask[top : top + side // 3, left : left + side // 3] = label
    return made


def write_voc_masks(folder: Path, *, train: int = 12, val: int = 4) -> Path:
    """Writes `folder/VOCdevkit/VOC2012`, without a test split as VOC itself; returns the year's folder."""
    year = folder / "VOCdevkit" / "VOC2012"
    names = [f"{number:06d}" for number in range(train + val)]
    for name, mask in zip(names, masks(train + val), strict=True):
        write_masked(year, name, mask)
    write_split(year, "train", names[:train])
    write_split(year, "val", names[train:])
    return year


class Network(nn.Module):
    """Answers with a mapping, as torchvision's segmentation networks do; a factory."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.head, self.aux = nn.Conv2d(12, num_classes, 1), nn.Conv2d(8, num_classes, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the maps and those of the auxiliary head."""
        early = self.first(x)
        out = nn.functional.interpolate(self.head(self.second(early)), size=x.shape[-2:], mode="bilinear")
        return {"out": out, "aux": self.aux(early)}


def narrow() -> nn.Module:
    """Returns a network for one class less; a factory."""
    return Network(2)


def coarse() -> nn.Module:
    """Returns a network whose maps are smaller than the images; a factory."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))


def data():
    """Returns a training and a test set of images and masks, as a DataLoader gives them; a factory."""
    from torch.utils.data import TensorDataset

    made = masks(16)
    pixels = torch.from_numpy(np.asarray([*COLOURS, (255, 255, 255)], dtype=np.float32)[np.minimum(made, 3)])
    images, targets = pixels.permute(0, 3, 1, 2) / 128 - 1, torch.from_numpy(made).long()
    return TensorDataset(images[:12], targets[:12]), TensorDataset(images[12:], targets[12:])


def classifier() -> nn.Module:
    """Returns a network that has a class for an image; a factory."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def torchvisions(num_classes: int = 3) -> nn.Module:
    """Returns torchvision's FCN with its auxiliary head over two blocks of convolutions; a factory."""
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    blocks = [
        nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
        for before, after in ((3, 16), (16, 24))
    ]
    backbone = IntermediateLayerGetter(nn.Sequential(*blocks), return_layers={"0": "aux", "1": "out"})
    return FCN(backbone, FCNHead(24, num_classes), FCNHead(16, num_classes))
