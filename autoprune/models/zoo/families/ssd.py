"""SSD with VGG-16 at an eighth of its width on small images: torchvision's own SSD, small enough to train on a CPU.

Liu et al. 2016, "SSD: Single Shot MultiBox Detector". As in torchvision's `ssd300_vgg16`, the first feature map is
conv4_3, normalised over its channels and scaled; the second is a dilated fc6 and fc7; the others are convolutions on
top. Unlike there, every convolution of the backbone has a batch norm: there are no ImageNet weights to start from, and
with batch norm a detector learns from scratch (Zhu et al. 2019, "ScratchDet").
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.models.zoo.families.cifar_resnet import initialise
from autoprune.models.zoo.families.cifar_vgg import VGG16_WIDTHS

#: Side of the images, in pixels.
SIDE = 160
_SHARE = 8
#: Width of fc6 and fc7, then (1x1, 3x3) of every further map; 1024 and (256, 512), (128, 256) in SSD300.
_DENSE, _FURTHER = 128, ((32, 64), (16, 32))
#: Those of SSD300's first four maps, whose sides are 20, 10, 5 and 3 here.
_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69)
_ASPECT_RATIOS = ((2,), (2, 3), (2, 3), (2,))
#: What SSD multiplies the normalised map by at first.
_SCALE_OF_NORMALISED = 20.0


class SsdVggBackbone(nn.Module):
    """The feature maps of SSD on a narrow VGG-16.

    Attributes:
        out_channels: of every map, as torchvision's SSD wants to know them.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = [None if width is None else width // _SHARE for width in VGG16_WIDTHS]
        fourth_pool = [place for place, width in enumerate(widths) if width is None][3]
        self.features, channels = _stages(3, widths[:fourth_pool])
        self.scale_weight = nn.Parameter(torch.full((channels,), _SCALE_OF_NORMALISED))
        last, width = _stages(channels, widths[fourth_pool:])
        last.append(nn.MaxPool2d(3, 1, 1))
        last.extend(_convolution(width, _DENSE, kernel=3, padding=6, dilation=6))
        last.extend(_convolution(_DENSE, _DENSE, kernel=1))
        self.extra = nn.ModuleList([last])
        self.out_channels = [channels, _DENSE]
        for place, (narrow, wide) in enumerate(_FURTHER):
            halves = place == 0
            before = self.out_channels[-1]
            self.extra.append(
                nn.Sequential(
                    *_convolution(before, narrow, kernel=1),
                    *_convolution(narrow, wide, kernel=3, padding=int(halves), stride=1 + halves),
                )
            )
            self.out_channels.append(wide)
        initialise(self)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Returns the maps of x (B, 3, 160, 160), the largest first."""
        x = self.features(x)
        maps = [self.scale_weight.view(1, -1, 1, 1) * functional.normalize(x)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return OrderedDict((str(place), item) for place, item in enumerate(maps))


def ssd_vgg_small(classes: int) -> nn.Module:
    """Returns torchvision's SSD over `SsdVggBackbone`, for 160x160 images of so many classes besides the background."""
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    anchors = DefaultBoxGenerator([list(ratios) for ratios in _ASPECT_RATIOS], scales=list(_SCALES))
    model = SSD(SsdVggBackbone(), anchors, (SIDE, SIDE), classes + 1)
    assert isinstance(model, nn.Module)
    return model


def _stages(channels: int, widths: list[int | None]) -> tuple[nn.Sequential, int]:
    """Returns convolutions and pools, and the channels that come out of them."""
    layers: list[nn.Module] = []
    for width in widths:
        if width is None:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += _convolution(channels, width, kernel=3, padding=1)
        channels = width
    return nn.Sequential(*layers), channels


def _convolution(
    channels: int, width: int, *, kernel: int, padding: int = 0, dilation: int = 1, stride: int = 1
) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
