from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.candidate import Merge
from autoprune.core.structure import Structure
from autoprune.models.cutting.surgery import Kept, cut, keep_all, random_kept
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.merging import addition_inputs, cut_and_merge, cut_least_squares, recalibrate
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import outputs
from tests.models.toy_networks import NETWORKS, SHAPE, fitted, images, toy

DOUBLE = torch.float64


def deviation(model: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return max(float((a - b).abs().max()) for a, b in zip(outputs(model, x), outputs(other, x), strict=True))


def plain_double(name: str = "flattened") -> nn.Module:
    return toy(name).double()


def depend(layer: nn.Module, matrix: torch.Tensor, shift: torch.Tensor) -> None:
    """Makes the last channels of a layer `matrix @ first ones + shift`."""
    known = matrix.shape[1]
    with torch.no_grad():
        layer.weight[known:] = torch.einsum("kc,c...->k...", matrix, layer.weight[:known])
        layer.bias[known:] = matrix @ layer.bias[:known] + shift


class LinearPair(nn.Module):
    """Two linear layers with nothing between them, so that linear dependence survives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(432, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x.flatten(1)))


class TestLeastSquares:
    def test_linear_dependence_is_exact_with_the_constant_in_the_bias(self):
        torch.manual_seed(0)
        model = LinearPair().double().eval()
        depend(model.first, torch.randn(3, 5, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE))
        x = images(60, dtype=DOUBLE)
        network = trace(model, x[:1])
        kept = Kept((np.arange(5),))
        calibration = calibrate(model, network, x, seed=0)
        assert deviation(cut(model, network, kept), model, x) > 0.01
        # The ridge of 1e-4 is what is left.
        assert (
            deviation(cut_least_squares(model, network, kept, calibration), model, images(9, seed=1, dtype=DOUBLE))
            < 2e-3
        )

    @pytest.mark.parametrize("name", ["plain", "residual with projections", "concatenation", "squeeze and excite"])
    def test_it_beats_slicing(self, name):
        model = plain_double(name)
        x = images(200, dtype=DOUBLE)
        fitted(model, x)
        network = trace(model, x[:1])
        structure = Structure(tuple(max(1, round(0.6 * group.width)) for group in network.groups))
        kept = random_kept(network, structure, np.random.default_rng(0))
        calibration = calibrate(model, network, x, seed=0)
        found = {
            merge: cut_and_merge(model, network, kept, merge=merge, calibration=calibration, images=x)
            for merge in (Merge.SLICE, Merge.LEAST_SQUARES)
        }
        for parameter in (*model.parameters(), *(p for small in found.values() for p in small.parameters())):
            parameter.requires_grad_(False)
        errors = {
            merge: sum(
                float((a - b).square().mean()) for a, b in zip(outputs(small, x), outputs(model, x), strict=True)
            )
            for merge, small in found.items()
        }
        assert errors[Merge.LEAST_SQUARES] < errors[Merge.SLICE]

    @pytest.mark.parametrize("merge", Merge)
    @pytest.mark.parametrize("name", NETWORKS)
    def test_the_dense_structure_is_the_dense_network(self, name, merge):
        model = toy(name)
        network = trace(model, torch.zeros(1, *SHAPE))
        x = images(4)
        calibration = calibrate(model, network, x, seed=0)
        same = cut_and_merge(model, network, keep_all(network), merge=merge, calibration=calibration, images=x)
        assert deviation(same, model, x) == 0


class TestAddition:
    @pytest.mark.parametrize("name", ["flattened", "plain", "concatenation"])
    def test_identical_channels_are_added_exactly(self, name):
        model = plain_double(name)
        x = images(5, dtype=DOUBLE)
        network = trace(model, x[:1])
        kept, clusters = [], []
        for group in network.groups:
            # Channels 1 and 3 are copies of channel 0, in every tensor that produces or follows.
            members = np.arange(group.width)
            members[[1, 3]] = 0
            clusters.append(members)
            kept.append(np.unique(members))
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            for axis in network.axes:
                if axis.role != "consumes":
                    layout, tensor = network.channels[axis.channels], named[axis.names[0]]
                    source = np.arange(len(layout.group))
                    for index in layout.members:
                        place = {int(c): i for i, c in enumerate(layout.channel) if layout.group[i] == index}
                        for i in np.flatnonzero(layout.group == index):
                            source[i] = place[int(clusters[index][layout.channel[i]])]
                    tensor.copy_(tensor.index_select(axis.axis, torch.from_numpy(source)))
        kept = Kept(tuple(kept))
        small = cut(model, network, kept, inputs=addition_inputs(network, kept, clusters))
        assert deviation(small, model, x) < 1e-12
        assert deviation(cut(model, network, kept), model, x) > 1e-3


class TestRecalibration:
    def test_it_gives_the_mean_of_the_batch_statistics(self):
        model = toy("plain").double()
        x = images(40, dtype=DOUBLE)
        first = model.layers[0][0](x).detach()
        found = recalibrate(copy.deepcopy(model), x, batch=20).layers[0][1]
        blocks = [first[:20].movedim(1, 0).flatten(1), first[20:].movedim(1, 0).flatten(1)]
        torch.testing.assert_close(found.running_mean, torch.stack([block.mean(1) for block in blocks]).mean(0))
        torch.testing.assert_close(found.running_var, torch.stack([block.var(1) for block in blocks]).mean(0))

    def test_one_image_too_many_makes_no_batch_of_one(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(432, 4), nn.BatchNorm1d(4)).eval()
        recalibrate(model, images(9), batch=4)
        assert bool(model[2].running_var.isfinite().all())

    def test_only_statistics_change_and_the_mode_is_eval(self):
        model = toy("unusual norms")
        momenta = [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        before = {key: value.clone() for key, value in model.named_parameters()}
        recalibrate(model, images(6))
        assert not any(module.training for module in model.modules())
        assert momenta == [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(torch.equal(before[key], value) for key, value in model.named_parameters())


class SharedBias(nn.Module):
    """Two layers with one bias, of which only the first reads channels that depend on others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 1)
        self.second.bias = self.first.bias
        self.head = nn.Linear(6, 3)
        depend(self.stem, torch.eye(4), torch.full((4,), 3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(self.stem(x))))).mean((2, 3)))


@pytest.mark.parametrize("merge", [Merge.LEAST_SQUARES, Merge.SEQUENTIAL])
def test_a_bias_of_two_layers_is_not_changed_for_one_of_them(merge):
    torch.manual_seed(0)
    model, x = SharedBias().eval(), images(16)
    network = trace(model, x[:1])
    kept = Kept((np.arange(4), *keep_all(network).indices[1:]))
    small = cut_and_merge(model, network, kept, merge=merge, calibration=calibrate(model, network, x, seed=0), images=x)
    torch.testing.assert_close(small.second.bias, model.second.bias)
    torch.testing.assert_close(small.second.weight, model.second.weight)
