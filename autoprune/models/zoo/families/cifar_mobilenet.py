"""MobileNetV2 for CIFAR, as the pruning papers use it: fewer strides, and projections where the width changes.

The network of Sandler et al. 2018, table 2, with stride 1 in the stem and in the second stage, for 32x32 images. A
block of stride 1 always has a shortcut; where it changes the width, the shortcut is a 1x1 convolution with batch norm,
which the ImageNet network does not have. White-Box pruning (2021) trains this one with ReLU. Parameter names are those
of its code; ours is our own.
"""

from __future__ import annotations

from torch import Tensor, nn

from autoprune.models.zoo.families.cifar_resnet import initialise

#: (expansion, width, blocks, stride of the first block) of each stage.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM, _LAST = 32, 1280


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; beside a shortcut where the resolution stays."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * in_channels
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.adds = stride == 1
        projects = self.adds and in_channels != out_channels
        self.shortcut = nn.Sequential(
            *([nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)] if projects else [])
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, out, H / stride, W / stride) features of x (B, in, H, W)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        out: Tensor = self.bn3(self.conv3(y))
        return out + self.shortcut(x) if self.adds else out


class CifarMobileNetV2(nn.Module):
    """A stem, seventeen inverted residuals, a wide 1x1 convolution, global average pooling and a linear head."""

    def __init__(self, *, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu1 = nn.ReLU()
        blocks: list[nn.Module] = []
        channels = _STEM
        for expansion, width, count, first_stride in STAGES:
            for stride in (first_stride, *[1] * (count - 1)):
                blocks.append(InvertedResidual(channels, width, expansion=expansion, stride=stride))
                channels = width
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(channels, _LAST, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_LAST)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(_LAST, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, 3, H, W)."""
        x = self.layers(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x)))
        out: Tensor = self.linear(self.avgpool(x).flatten(1))
        return out
