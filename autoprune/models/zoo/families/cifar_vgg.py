"""VGG-16 with batch norm for CIFAR, in the two head variants that the pruning papers use (they differ in cost)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoprune.models.zoo.families.cifar_resnet import initialise

#: Simonyan & Zisserman 2015, configuration D; None is a 2x2 max pool.
VGG16_WIDTHS: tuple[int | None, ...] = (
    64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512,
)  # fmt: skip


class CifarVgg(nn.Module):
    """Convolutions (with bias) with batch norm and ReLU, global average pooling and a head.

    Args:
        classes: outputs.
        hidden: width of a hidden linear layer with batch norm in the head (HRank, CHIP, CCM use 512); None for a
            single linear layer (EPruner, ABCPruner, ACP).
        widths: channels of the convolutions, None for a max pool.
    """

    def __init__(
        self, *, classes: int = 10, hidden: int | None = None, widths: Sequence[int | None] = VGG16_WIDTHS
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            if width is None:
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        head: list[nn.Module] = []
        if hidden is not None:
            head = [nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
        self.classifier = nn.Sequential(*head, nn.Linear(hidden or channels, classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, 3, H, W)."""
        out: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return out
