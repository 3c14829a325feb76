"""Operations that treat every channel alike, in one, two and three dimensions, gates of halves, and unpooling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.models.cutting.surgery import Kept, cut
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import verified, verify
from tests.models.toy_networks import images, settled


def with_border(x: Tensor) -> Tensor:
    """Returns the map, its first rows overwritten in place."""
    x = x.clone()
    x[:, :, :2] = 0.5
    return x


GRID = torch.rand(1, 5, 7, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
ALIKE: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "max pool 3d": (3, lambda x: functional.max_pool3d(x, (1, 2, 2))),
    "average pool 3d": (3, lambda x: functional.avg_pool3d(x, 2)),
    "adaptive max pool 3d": (3, lambda x: functional.adaptive_max_pool3d(x, 2)),
    "nearest 3d": (3, lambda x: functional.interpolate(x, scale_factor=2)),
    "trilinear": (3, lambda x: functional.interpolate(x, scale_factor=2, mode="trilinear")),
    "replication pad 3d": (3, lambda x: functional.pad(x, (1,) * 6, mode="replicate")),
    "max pool 1d": (1, lambda x: functional.max_pool1d(x, 2)),
    "nearest 1d": (1, lambda x: functional.interpolate(x, scale_factor=2)),
    "linear 1d": (1, lambda x: functional.interpolate(x, scale_factor=2, mode="linear")),
    "reflection pad 1d": (1, lambda x: functional.pad(x, (1, 1), mode="reflect")),
    "gate 2d": (2, lambda x: functional.glu(torch.cat([x, x.tanh()], 1), 1)),
    "gate of positions": (2, lambda x: functional.glu(x, 3)),
    "unpooling": (2, lambda x: functional.max_unpool2d(*functional.max_pool2d(x, 2, return_indices=True), 2)),
    "moved mask": (2, lambda x: x * (x > 0).flatten(2).view(x.shape).mT.mT),
    "joined masks": (2, lambda x: x * torch.stack([x > 0, x > 1]).any(0)),
    "whole numbers": (2, lambda x: x + (16 * x).int().flatten(2).view(x.shape) / 16),
    "zeros to begin with": (2, lambda x: torch.zeros_like(x) + x),
    "a border of zeros": (2, with_border),
    "sampled at a grid": (2, lambda x: functional.grid_sample(x, GRID.expand(len(x), -1, -1, -1), align_corners=True)),
}


class Between(nn.Module):
    """A function between two convolutions of as many dimensions."""

    def __init__(self, dims: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.first, self.last, self.head = conv(3, 8, 3, padding=1), conv(8, 6, 1), nn.Linear(6, 4)
        self.dims, self.function = dims, function

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2) if self.dims == 1 else x.unsqueeze(2).repeat(1, 1, 4, 1, 1) if self.dims == 3 else x
        return self.head(self.last(self.function(self.first(x))).flatten(2).mean(2))


@pytest.mark.parametrize("name", ALIKE)
def test_channels_on_both_sides_can_be_cut(name):
    model = Between(*ALIKE[name]).eval()
    network = verified(model, trace(model, images(1)))
    assert [group.name for group in network.groups] == ["first", "last"]
    assert verify(model, network).holds


def test_the_halves_of_a_gate_are_cut_alike():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GLU(1), nn.Conv2d(4, 6, 1), nn.Flatten(), nn.Linear(600, 2)).eval()
    network = verified(model, trace(model, images(1)))
    assert [(group.name, group.width) for group in network.groups] == [("0", 4), ("2", 6)]
    assert network.frozen == {"4": "network output"}


class Unpooled(nn.Module):
    """Goes up as SegNet does: to where the maxima on the way down were."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deeper = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.up, self.higher = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, first = functional.max_pool2d(self.down(x), 2, return_indices=True)
        x, second = functional.max_pool2d(self.deeper(x), 2, return_indices=True)
        x = functional.max_unpool2d(self.up(x), second, 2)
        return self.head(functional.max_unpool2d(self.higher(x), first, 2))


def test_channels_that_are_unpooled_are_cut_with_those_that_were_pooled():
    model = Unpooled().eval()
    network = verified(model, trace(model, images(1)))
    assert [(group.name, group.width) for group in network.groups] == [("down", 6), ("deeper", 8)]
    assert network.frozen == {"head": "network output"}
    assert verify(model, network).holds


class Repeated(nn.Module):
    """A scale for each channel, used for either half of a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.join = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3), nn.Conv2d(12, 4, 1)
        self.scale = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x), self.right(x)], 1)
        return self.join(both * self.scale.repeat(2).view(1, -1, 1, 1))


def test_channels_that_a_parameter_is_repeated_over_are_cut_with_it():
    model = Repeated().eval()
    network = trace(model, images(1))
    assert [(group.name, group.width) for group in network.groups] == [("left", 6)]
    assert network.frozen == {"join": "network output"}
    assert verify(model, network).holds
    assert cut(model, network, Kept((np.array([1, 4]),))).scale.tolist() == model.scale[[1, 4]].tolist()


def test_a_grouped_transposed_convolution_loses_the_same_channels_in_every_group():
    model = settled(nn.Sequential(nn.Conv2d(3, 12, 3), nn.ConvTranspose2d(12, 8, 2, 2, groups=4), nn.Conv2d(8, 5, 1)))
    network = trace(model, torch.zeros(1, 3, 8, 8))
    assert [(group.name, group.width) for group in network.groups] == [("0", 3), ("1", 2)]
    assert network.frozen == {"2": "network output"}
    assert verify(model, network).holds
    small = cut(model, network, Kept((np.array([0, 2]), np.array([1]))))
    assert (small[1].in_channels, small[1].out_channels, small[1].groups) == (8, 4, 4)


def test_a_depthwise_transposed_convolution_follows_its_input():
    up = nn.ConvTranspose2d(6, 12, 4, stride=2, padding=1, groups=6)
    layers = nn.Conv2d(3, 6, 3), up, nn.BatchNorm2d(12), nn.Conv2d(12, 4, 1), nn.Flatten(), nn.Linear(1600, 2)
    model = nn.Sequential(*layers).eval()
    network = verified(model, trace(model, images(1)))
    assert [(group.name, group.width) for group in network.groups] == [("0", 6), ("3", 4)]
    assert verify(model, network).holds
    small = cut(model, network, Kept((np.array([1, 4]), np.arange(4))))
    assert torch.equal(small[1].weight, up.weight[[1, 4]])
    assert torch.equal(small[1].bias, up.bias[[2, 3, 8, 9]])
    assert (small[1].in_channels, small[1].out_channels, small[1].groups) == (2, 4, 2)


def test_a_network_with_channels_last_is_cut_in_front_of_a_global_pooling():
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last).eval()
    network = verified(model, trace(model, images(1)))
    assert [(group.name, group.width) for group in network.groups] == [("0", 8)]
    assert verify(model, network).holds


class Masked(nn.Module):
    """Channels that a buffer of truth values hides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
        self.register_buffer("hidden", torch.tensor([True, False, False, True, False, False]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).masked_fill(self.hidden.view(1, -1, 1, 1), 0.5).mean((2, 3)))


def test_a_mask_in_a_buffer_is_cut_with_the_channels_that_it_hides():
    model = Masked().eval()
    network = verified(model, trace(model, images(1)))
    assert [(group.name, group.width) for group in network.groups] == [("first", 6)]
    assert verify(model, network).holds
    assert cut(model, network, Kept((np.array([0, 2, 4]),))).hidden.tolist() == [True, False, False]
