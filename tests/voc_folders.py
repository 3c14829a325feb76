"""Tiny folders in Pascal VOC's layout: coloured rectangles on grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
COLOURS = {"blue": (30, 60, 220), "red": (220, 40, 30)}


def annotation(boxes, *, width=SIDE, height=SIDE) -> str:
    """Returns the XML of (class, x1, y1, x2, y2, difficult) boxes."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{int(hard)}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2, hard in boxes
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"


def write_image(year: Path, name: str, boxes, *, width=SIDE, height=SIDE) -> None:
    """Writes an image with its boxes filled, and its annotation."""
    pixels = np.full((height, width, 3), 128, dtype=np.uint8)
    for colour, x1, y1, x2, y2, _ in boxes:
        pixels[int(y1) : int(y2), int(x1) : int(x2)] = COLOURS.get(colour, (0, 0, 0))
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (year / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(year / "JPEGImages" / f"{name}.jpg", quality=95)
    (year / "Annotations" / f"{name}.xml").write_text(annotation(boxes, width=width, height=height))


def write_split(year: Path, split: str, names) -> None:
    """Writes the list of a split."""
    (year / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def write_voc(folder: Path, *, train: int = 12, test: int = 6) -> Path:
    """Writes `folder/VOCdevkit/VOC2007` with one or two rectangles an image; returns the year's folder."""
    rng = np.random.default_rng(0)
    year = folder / "VOCdevkit" / "VOC2007"
    names = [f"{number:06d}" for number in range(train + test)]
    for number, name in enumerate(names):
        boxes = []
        for colour, left in (("blue", 2), ("red", 34))[: 1 + number % 2]:
            x, y = left + int(rng.integers(0, 8)), int(rng.integers(2, 38))
            boxes.append((colour, x, y, x + 20, y + 22, False))
        write_image(year, name, boxes)
    write_split(year, "trainval", names[:train])
    write_split(year, "test", names[train:])
    return year


def network(num_classes: int = 2):
    """Returns torchvision's SSD over four convolutions with batch norm, for these images; a factory."""
    from torch import nn
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 16), (16, 24), (24, 32)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = [32]
    return SSD(backbone, DefaultBoxGenerator([[2]], scales=[0.35, 0.6]), (SIDE, SIDE), num_classes + 1).eval()


def narrow():
    """Returns a network for one class less; a factory."""
    return network(1)
