"""GoogLeNet for CIFAR: nine inception modules behind one 3x3 stem, as the pruning papers use it.

Parameter names are those of the checkpoints that HRank, EPruner, ABCPruner and CLR-RNF share. The code is our own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoprune.models.zoo.families.cifar_resnet import initialise


class InceptionWidths(NamedTuple):
    """Channels inside one inception module; what it puts out is `one + three + five + pool` wide."""

    one: int
    three_inner: int
    three: int
    five_inner: int
    five: int
    pool: int


#: Szegedy et al. 2015, table 1, from module 3a to 5b; a name's letter comes first, as in the checkpoints.
INCEPTIONS: dict[str, InceptionWidths] = {
    "inception_a3": InceptionWidths(64, 96, 128, 16, 32, 32),
    "inception_b3": InceptionWidths(128, 128, 192, 32, 96, 64),
    "inception_a4": InceptionWidths(192, 96, 208, 16, 48, 64),
    "inception_b4": InceptionWidths(160, 112, 224, 24, 64, 64),
    "inception_c4": InceptionWidths(128, 128, 256, 24, 64, 64),
    "inception_d4": InceptionWidths(112, 144, 288, 32, 64, 64),
    "inception_e4": InceptionWidths(256, 160, 320, 32, 128, 128),
    "inception_a5": InceptionWidths(256, 160, 320, 32, 128, 128),
    "inception_b5": InceptionWidths(384, 192, 384, 48, 128, 128),
}
_STEM = 192
#: Modules that a max pool of stride 2 precedes.
_AFTER_POOL = ("inception_a4", "inception_a5")


class Inception(nn.Module):
    """Four branches side by side, concatenated; the 5x5 convolution is two of 3x3."""

    def __init__(self, in_channels: int, widths: InceptionWidths) -> None:
        super().__init__()
        self.branch1x1 = nn.Sequential(*_unit(in_channels, widths.one, 1))
        self.branch3x3 = nn.Sequential(
            *_unit(in_channels, widths.three_inner, 1), *_unit(widths.three_inner, widths.three, 3)
        )
        self.branch5x5 = nn.Sequential(
            *_unit(in_channels, widths.five_inner, 1),
            *_unit(widths.five_inner, widths.five, 3),
            *_unit(widths.five, widths.five, 3),
        )
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), *_unit(in_channels, widths.pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, one + three + five + pool, H, W) features of x (B, in, H, W)."""
        return torch.cat([self.branch1x1(x), self.branch3x3(x), self.branch5x5(x), self.branch_pool(x)], dim=1)


class CifarGoogLeNet(nn.Module):
    """A stem, nine inception modules in three resolutions, global average pooling and a linear head."""

    def __init__(self, *, classes: int = 10) -> None:
        super().__init__()
        self.pre_layers = nn.Sequential(*_unit(3, _STEM, 3))
        channels = _STEM
        for name, widths in INCEPTIONS.items():
            self.add_module(name, Inception(channels, widths))
            channels = widths.one + widths.three + widths.five + widths.pool
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, 3, H, W)."""
        x = self.pre_layers(x)
        for name in INCEPTIONS:
            x = self.get_submodule(name)(self.maxpool(x) if name in _AFTER_POOL else x)
        out: Tensor = self.linear(self.avgpool(x).flatten(1))
        return out


def _unit(in_channels: int, out_channels: int, size: int) -> list[nn.Module]:
    """Returns a convolution (with bias, as in the checkpoints), its batch norm and ReLU."""
    return [nn.Conv2d(in_channels, out_channels, size, 1, size // 2), nn.BatchNorm2d(out_channels), nn.ReLU()]
