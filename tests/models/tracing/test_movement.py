"""Operations that treat every channel alike, in one, two and three dimensions, and gates of halves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import verified, verify
from tests.models.toy_networks import images

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
