"""A small U-Net: maps of half and quarter size on the way down, joined with their equals on the way up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.models.zoo.families.cifar_resnet import initialise


class DigitsUnet(nn.Module):
    """Two convolutions a level, and the maps of every level handed across (Ronneberger et al. 2015, "U-Net").

    Departs from the paper in padding, so that maps keep their size, in batch norm, in enlarging by repetition, and in
    sizes.
    """

    def __init__(self, *, classes: int = 11, widths: Sequence[int] = (8, 16, 32), in_channels: int = 1) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _level(before, width) for before, width in zip((in_channels, *widths), widths, strict=False)
        )
        levels = list(pairwise(widths))
        self.up = nn.ModuleList(_level(width + below, width) for width, below in reversed(levels))
        self.head = nn.Conv2d(widths[0], classes, 1)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes, H, W) logits of x (B, in_channels, H, W), sides a multiple of four."""
        across: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level > 0:
                across.append(x)
                x = functional.max_pool2d(x, 2)
            x = block(x)
        for block in self.up:
            x = block(torch.cat([functional.interpolate(x, scale_factor=2.0), across.pop()], dim=1))
        out: Tensor = self.head(x)
        return out


def _level(before: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)
