"""DenseNet-40 of growth 12 for CIFAR with a batch norm before every convolution (Huang et al. 2017, section 3).

Parameter names are those of HRank's code. The code is our own; the variant without norms is in densenet.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.models.zoo.families.cifar_resnet import initialise


class DenseLayer(nn.Module):
    """Norm, ReLU, 3x3 convolution; its channels are appended to what it read."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, in + growth, H, W) features of x (B, in, H, W)."""
        return torch.cat([x, self.conv1(self.relu(self.bn1(x)))], dim=1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution and 2x2 average pooling; the width stays."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, C, H / 2, W / 2) features of x (B, C, H, W)."""
        out: Tensor = self.pool(self.conv1(self.relu(self.bn1(x))))
        return out


class CifarDenseNet(nn.Module):
    """Three dense blocks with transitions between them, global average pooling and a linear head.

    Args:
        classes: outputs.
        stem: channels of the first convolution: 16 in the paper (1.02 M parameters), 24 in HRank's code (1.04 M), whose
            counts the tables of its successors repeat.
        growth: channels that each layer appends.
        layers: of each block; depth 40 has 12.
    """

    def __init__(self, *, classes: int = 10, stem: int = 16, growth: int = 12, layers: int = 12) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        grown = growth * layers
        self.dense1 = _dense_block(stem, growth=growth, layers=layers)
        self.trans1 = Transition(stem + grown)
        self.dense2 = _dense_block(stem + grown, growth=growth, layers=layers)
        self.trans2 = Transition(stem + 2 * grown)
        self.dense3 = _dense_block(stem + 2 * grown, growth=growth, layers=layers)
        self.bn = nn.BatchNorm2d(stem + 3 * grown)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(stem + 3 * grown, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, 3, H, W)."""
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.dense3(self.trans2(self.dense2(x)))
        out: Tensor = self.fc(self.avgpool(self.relu(self.bn(x))).flatten(1))
        return out


def _dense_block(in_channels: int, *, growth: int, layers: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(in_channels + growth * index, growth) for index in range(layers)))
