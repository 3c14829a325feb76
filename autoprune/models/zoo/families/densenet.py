"""DenseNet-40 of growth 12 without batch norm inside its dense blocks (the fast variant of titu1994/DenseNet)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.models.zoo.families.cifar_resnet import initialise

#: Keras' default of the public weights; torch's is 1e-5.
_EPS = 1e-3


class DenseBlock(nn.ModuleList):
    """Convolutions that each read everything before them: `x = cat(x, conv(relu(x)))`."""

    def __init__(self, in_channels: int, *, growth: int, layers: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels + growth * layer, growth, 3, 1, 1, bias=False) for layer in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, in + layers * growth, H, W) features of x (B, in, H, W)."""
        for convolution in self:
            x = torch.cat([x, convolution(nn.functional.relu(x))], dim=1)
        return x


class DenseNet40(nn.Module):
    """Three dense blocks with 1x1 transitions between them; expects raw pixels in [0, 255]."""

    def __init__(self, *, classes: int = 10, growth: int = 12, layers: int = 12) -> None:
        super().__init__()
        width = 16
        self.conv0 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(width, eps=_EPS)
        self.block1 = DenseBlock(width, growth=growth, layers=layers)
        width += growth * layers
        self.trans1 = nn.Conv2d(width, width, 1, bias=False)
        self.pool1 = nn.AvgPool2d(2)
        self.bn1 = nn.BatchNorm2d(width, eps=_EPS)
        self.block2 = DenseBlock(width, growth=growth, layers=layers)
        width += growth * layers
        self.trans2 = nn.Conv2d(width, width, 1, bias=False)
        self.pool2 = nn.AvgPool2d(2)
        self.bn2 = nn.BatchNorm2d(width, eps=_EPS)
        self.block3 = DenseBlock(width, growth=growth, layers=layers)
        width += growth * layers
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, 3, H, W)."""
        x = self.block1(self.bn0(self.conv0(x)))
        x = self.block2(self.bn1(self.pool1(self.trans1(x))))
        x = self.block3(self.bn2(self.pool2(self.trans2(x))))
        out: Tensor = self.fc(self.avgpool(self.relu(x)).flatten(1))
        return out
