from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import verify
from tests.models.toy_networks import SHAPE, Toy, settled, unit


class Indexed(Toy):
    """One way to index between two layers."""

    def __init__(self, way) -> None:
        super().__init__(6)
        self.stem, self.last, self.way = unit(3, 8), unit(8, 6), way

    def body(self, x: Tensor) -> Tensor:
        return self.last(self.way(self.stem(x)))


def bright(x: Tensor) -> Tensor:
    return (x[:, :, 2:3] * 0 + 1)[x.new_ones(len(x), dtype=torch.bool)] * x


def written_rows(x: Tensor) -> Tensor:
    out = torch.zeros((x.shape[2], x.shape[0], x.shape[1], x.shape[3]), dtype=x.dtype)
    rows = x.permute(2, 0, 1, 3)
    out[torch.arange(0, 12, 2)] = rows[::2]
    out[torch.arange(1, 12, 2)] = rows[1::2].relu()
    return out.permute(1, 2, 0, 3)


def overwritten(x: Tensor) -> Tensor:
    x = x.clone()
    x.index_put_((torch.arange(1),), torch.tensor(0.5, dtype=x.dtype))
    return x


def shuffled(x: Tensor) -> Tensor:
    return x[:, torch.tensor([3, 1, 2, 0, 7, 6, 5, 4])]


def selected(x: Tensor) -> Tensor:
    return x.index_select(1, torch.tensor([3, 1, 2, 0, 7, 6, 5, 4]))


def rolled(x: Tensor) -> Tensor:
    return x.roll(1, dims=1)


def moved(x: Tensor) -> Tensor:
    return x.roll((2, 1), dims=(2, 3)).index_select(2, torch.tensor([1, 0, *range(2, 12)]))


def narrow_values(x: Tensor) -> Tensor:
    out = x.clone()
    out[torch.arange(1)] = torch.linspace(0, 1, 8, dtype=x.dtype).reshape(1, 8, 1, 1)
    return out


def model_of(way) -> nn.Module:
    torch.manual_seed(0)
    return settled(Indexed(way))


@pytest.mark.parametrize("way", [bright, written_rows, overwritten, moved])
def test_indexing_of_other_dimensions_leaves_channels_prunable(way):
    model = model_of(way)
    network = trace(model, torch.randn(1, *SHAPE))
    assert {group.name: group.width for group in network.groups} == {"stem.0": 8, "last.0": 6}
    assert all(verify(model, network, seed=seed).holds for seed in range(3))


@pytest.mark.parametrize(("way", "reason"), [
    (shuffled, "an index takes channels at fixed positions"),
    (selected, "index_select takes channels at fixed positions"),
    (rolled, "roll takes channels at fixed positions"),
    (narrow_values, "is overwritten by a tensor of fixed width"),
])  # fmt: skip
def test_channels_in_a_written_order_are_frozen(way, reason):
    network = trace(model_of(way), torch.randn(1, *SHAPE))
    assert network.frozen["stem.0"] == reason
    assert [group.name for group in network.groups] == ["last.0"]
