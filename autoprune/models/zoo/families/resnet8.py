"""The ResNet-8 of the MLPerf Tiny benchmark, with biases and TensorFlow's padding of strided convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from autoprune.models.zoo.families.cifar_resnet import initialise

#: Keras' default; torch's is 1e-5.
_EPS = 1e-3


class TinyBlock(nn.Module):
    """Two 3x3 convolutions with bias; strided ones pad right and bottom only, as TensorFlow's `same` does."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.pad: nn.Module = nn.ZeroPad2d((0, 1, 0, 1)) if stride > 1 else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 0 if stride > 1 else 1)
        self.bn1 = nn.BatchNorm2d(out_channels, eps=_EPS)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(out_channels, eps=_EPS)
        self.shortcut: nn.Module = nn.Conv2d(in_channels, out_channels, 1, stride) if stride > 1 else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, out, H / stride, W / stride) features of x (B, in, H, W)."""
        y = self.relu1(self.bn1(self.conv1(self.pad(x))))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


class ResNet8(nn.Module):
    """A stem and three single-block stages; expects raw pixels in [0, 255]."""

    def __init__(self, *, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1)
        self.bn1 = nn.BatchNorm2d(16, eps=_EPS)
        self.relu = nn.ReLU()
        self.layer1 = TinyBlock(16, 16, 1)
        self.layer2 = TinyBlock(16, 32, 2)
        self.layer3 = TinyBlock(32, 64, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, 3, H, W)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.fc(self.avgpool(x).flatten(1))
        return out
