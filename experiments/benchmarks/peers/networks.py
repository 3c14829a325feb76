"""Small networks for scikit-learn's digits, one of each family that peers treat differently."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Vgg(nn.Module):
    """Three pairs of 3x3 convolutions, halved in between; the widths grow as in VGG."""

    def __init__(self, widths: Sequence[int] = (8, 8, 16, 16, 32, 32), classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for index, width in enumerate(widths):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if index in (1, 3) else []
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, 1, 8, 8)."""
        out: Tensor = self.head(self.features(x).mean((2, 3)))
        return out


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, whose output is appended to the input."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(before)
        self.conv = nn.Conv2d(before, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, before + growth, H, W) features of x (B, before, H, W)."""
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], dim=1)


class DenseNet(nn.Module):
    """Two dense blocks of five layers with a transition in between."""

    def __init__(self, growth: int = 6, layers: int = 5, stem: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, stem, 3, padding=1, bias=False)
        self.block1 = nn.Sequential(*(DenseLayer(stem + index * growth, growth) for index in range(layers)))
        width = stem + layers * growth
        self.norm1 = nn.BatchNorm2d(width)
        self.transition = nn.Conv2d(width, width // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)
        self.block2 = nn.Sequential(*(DenseLayer(width // 2 + index * growth, growth) for index in range(layers)))
        width = width // 2 + layers * growth
        self.norm2 = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, 1, 8, 8)."""
        x = self.block1(self.stem(x))
        x = self.block2(self.pool(self.transition(torch.relu(self.norm1(x)))))
        out: Tensor = self.head(torch.relu(self.norm2(x)).mean((2, 3)))
        return out


class Bottleneck(nn.Module):
    """MobileNetV2's block: 1x1 up, 3x3 depthwise, 1x1 down, and the input added where the shapes allow."""

    def __init__(self, before: int, after: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        wide = before * expansion
        self.up, self.norm1 = nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.down, self.norm3 = nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after)
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, after, H / stride, W / stride) features of x (B, before, H, W)."""
        y = torch.relu(self.norm1(self.up(x)))
        y = self.norm3(self.down(torch.relu(self.norm2(self.depthwise(y)))))
        return x + y if self.adds else y


class MobileNet(nn.Module):
    """A stem, six bottlenecks in three stages and a wide last convolution."""

    def __init__(self, widths: Sequence[int] = (8, 12, 24), expansion: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        before = widths[0]
        for index, width in enumerate(widths):
            blocks.append(Bottleneck(before, width, expansion=expansion, stride=1 if index == 0 else 2))
            blocks.append(Bottleneck(width, width, expansion=expansion, stride=1))
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.last, self.norm_last = nn.Conv2d(before, 4 * before, 1, bias=False), nn.BatchNorm2d(4 * before)
        self.head = nn.Linear(4 * before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, 1, 8, 8)."""
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        out: Tensor = self.head(torch.relu(self.norm_last(self.last(x))).mean((2, 3)))
        return out
