"""Residual networks for small images: CIFAR ResNets of depth 6n+2 (He et al. 2016, section 4.2) and relatives.

Parameter names are those of the public weights: option A as in akamaster/pytorch_resnet_cifar10 (head `linear`),
option B as in chenyaofo/pytorch-cifar-models (head `fc`, shortcut `downsample.0/.1`). The code is our own.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoprune.models.modules.layers import ChannelMap


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, then ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, out, H / stride, W / stride) features of x (B, in, H, W)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.downsample(x))
        return out


def padding_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Returns the option-A shortcut: every `stride`-th pixel, new channels zero, half of them on either side."""
    before = (out_channels - in_channels) // 2
    after = out_channels - in_channels - before
    # A 1x1 average pool is subsampling, and unlike slicing it is a layer that graph readers know.
    return nn.Sequential(
        nn.AvgPool2d(1, stride), ChannelMap([-1] * before + list(range(in_channels)) + [-1] * after, in_channels)
    )


def projection_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Returns the option-B shortcut: a 1x1 convolution and batch norm."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class CifarResNet(nn.Module):
    """A stem, three stages of basic blocks, global average pooling and a linear head.

    Args:
        blocks: basic blocks per stage.
        widths: channels of the stages; the stem has the first.
        option: `a` for zero-padded shortcuts, `b` for projections.
        in_channels: channels of the images.
        classes: outputs.
    """

    def __init__(
        self, *, blocks: int, option: str, classes: int = 10, widths: Sequence[int] = (16, 32, 64), in_channels: int = 3
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(widths[0], widths[0], blocks=blocks, stride=1, option=option)
        self.layer2 = _stage(widths[0], widths[1], blocks=blocks, stride=2, option=option)
        self.layer3 = _stage(widths[1], widths[2], blocks=blocks, stride=2, option=option)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head_name = "linear" if option == "a" else "fc"
        self.add_module(self.head_name, nn.Linear(widths[-1], classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, in_channels, H, W)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.get_submodule(self.head_name)(self.avgpool(x).flatten(1))
        return out


def _stage(in_channels: int, out_channels: int, *, blocks: int, stride: int, option: str) -> nn.Sequential:
    make_shortcut = padding_shortcut if option == "a" else projection_shortcut
    changes = stride != 1 or in_channels != out_channels
    first = make_shortcut(in_channels, out_channels, stride) if changes else nn.Identity()
    stage = [BasicBlock(in_channels, out_channels, stride=stride, shortcut=first)]
    stage += [BasicBlock(out_channels, out_channels, stride=1, shortcut=nn.Identity()) for _ in range(blocks - 1)]
    return nn.Sequential(*stage)


def initialise(model: nn.Module) -> None:
    """Sets convolutions to He-normal (fan out) weights and linear layers to small normal ones; biases to zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
