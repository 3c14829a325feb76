"""Recurrent layers: what they read is cut, what they put out stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.candidate import Merge
from autoprune.core.structure import Structure
from autoprune.models.costing.counting import count
from autoprune.models.cutting.surgery import cut, random_kept
from autoprune.models.network import Role
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.merging import cut_and_merge
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import outputs, random_structure, verified, verify
from tests.models.toy_networks import SHAPE, images, settled, unit


class Recurrent(nn.Module):
    """Convolutions, a recurrent layer over the columns of their maps, a classifier.

    Args:
        kind: of the recurrent layer.
        flat: whether it reads whole columns, or their means.
        options: of the layer.
    """

    def __init__(self, kind: type[nn.RNNBase], *, flat: bool = False, **options: Any) -> None:
        super().__init__()
        self.stem, self.middle = unit(3, 8), unit(8, 9)
        self.rows = kind(9 * 12 if flat else 9, 6, **options)
        self.head = nn.Linear(12 if self.rows.bidirectional else 6, 4)
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        found = self.middle(self.stem(x))
        columns = found.permute(0, 3, 1, 2).flatten(2) if self.flat else found.mean(2).transpose(1, 2)
        states, _ = self.rows(columns if self.rows.batch_first else columns.transpose(0, 1))
        return self.head(states.mean(1 if self.rows.batch_first else 0))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"batch_first": True},
    "time first": {},
    "both ways, twice": {"batch_first": True, "bidirectional": True, "num_layers": 2},
    "columns": {"batch_first": True, "flat": True},
    "no bias": {"bias": False},
}
KINDS = [(kind, name) for kind in (nn.LSTM, nn.GRU, nn.RNN) for name in OPTIONS]


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_the_channels_that_a_recurrent_layer_reads_are_cut(kind, name):
    model = settled(Recurrent(kind, **OPTIONS[name]))
    network = verified(model, trace(model, images(1)))
    assert [group.name for group in network.groups] == ["stem.0", "middle.0"]
    found = verify(model, network)
    assert found.holds
    assert found.deviation < 1e-12
    assert network.layers_of(1, Role.CONSUMES)[0].startswith("rows")


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_its_cost_is_what_is_counted_in_single_precision(kind, name):
    model = settled(Recurrent(kind, **OPTIONS[name]))
    network = verified(model, trace(model, images(1)))
    rng = np.random.default_rng(0)
    kept = random_kept(network, random_structure(network, rng), rng)
    small = cut(model, network, kept)
    assert network.cost_model.cost(kept.structure) == count(small, (1, *SHAPE))
    assert (
        small.rows.input_size
        == small.rows.weight_ih_l0.shape[1]
        == kept.structure.widths[1] * (12 if "flat" in OPTIONS[name] else 1)
    )
    small.train()(images(4)).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("merge", list(Merge))
def test_a_merged_network_runs_and_reads_the_kept_columns(kind, merge):
    model = settled(Recurrent(kind, batch_first=True))
    network = verified(model, trace(model, images(1)))
    rng = np.random.default_rng(0)
    kept = random_kept(network, Structure((8, 5)), rng)
    batch = images(16)
    calibration = calibrate(model, network, batch, seed=0)
    small = cut_and_merge(model, network, kept, merge=merge, calibration=calibration, images=batch)
    assert torch.isfinite(outputs(small, batch)[0]).all()
    # The layer itself is sliced where nothing can be solved for.
    if kind is nn.LSTM:
        assert torch.equal(small.rows.weight_ih_l0, model.rows.weight_ih_l0[:, kept.indices[1]])


class Cell(nn.Module):
    """A convolution, then a recurrent cell that the forward runs column by column."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.stem, self.cell, self.head = nn.Conv2d(3, 8, 3), kind(8, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for column in self.stem(x).mean(2).unbind(2):
            state = self.cell(column, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_the_channels_that_a_recurrent_cell_reads_are_cut(kind):
    model = Cell(kind).eval()
    network = verified(model, trace(model, images(1)))
    assert [group.name for group in network.groups] == ["stem"]
    assert verify(model, network).holds
