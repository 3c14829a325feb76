"""Networks whose forward leaves double precision are proved all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.models.modules.randomising import FittedNorms
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.depth import allowed_to_vanish, with_vanishing
from autoprune.models.verification.equivalence import verified, verify
from autoprune.models.verification.precision import DOUBLE, SINGLE, allowed
from tests.models.toy_networks import images, unit


class Forward(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class PlainAttribute(nn.Module):
    """Multiplies by a matrix that is no buffer, so that no cast of the module reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.matrix


class ZeroState(nn.Module):
    """A recurrent layer whose first state is written in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found, _ = self.rows(x.flatten(2).transpose(1, 2), torch.zeros(1, len(x), 8))
        return found.transpose(1, 2).reshape(x.shape)


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.conv(x).float()


def refusing(x: Tensor) -> Tensor:
    if x.dtype == torch.float64:
        raise RuntimeError("no doubles here")
    return x


LEAVING: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda x: x.float(),
    "to float32": lambda x: x.to(torch.float32),
    "type": lambda x: x.type(torch.float32),
    "half": lambda x: x.half().float(),
    "bfloat16": lambda x: x.bfloat16().to(torch.float32) * 2,
    "softmax in float": lambda x: functional.softmax(x.flatten(2), -1, dtype=torch.float32).view_as(x),
}


def around(middle: nn.Module) -> nn.Sequential:
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), middle, nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 4)).eval()


@pytest.mark.parametrize("kind", LEAVING)
def test_a_forward_that_casts_is_proved_in_double(kind):
    model = around(Forward(LEAVING[kind]))
    network = verified(model, trace(model, images(1)))
    assert [group.name for group in network.groups] == ["0", "3"]
    found = verify(model, network)
    assert found.holds
    assert found.deviation < 1e-12
    assert found.precision is DOUBLE


@pytest.mark.parametrize(
    ("middle", "groups"), [(PlainAttribute(), ["0", "3"]), (ZeroState(), ["3"]), (Autocast(), ["0", "2.conv", "3"])]
)
def test_a_layer_that_brings_in_single_precision_is_proved_in_double(middle, groups):
    model = around(middle)
    network = verified(model, trace(model, images(1)))
    assert set(groups) <= {group.name for group in network.groups}
    assert verify(model, network).deviation < 1e-12


def test_a_forward_that_refuses_double_is_proved_in_single_precision():
    model = around(Forward(refusing))
    network = verified(model, trace(model, images(1)))
    assert [group.name for group in network.groups] == ["0", "3"]
    found = verify(model, network)
    assert found.holds
    assert found.precision is SINGLE


def test_a_wrong_cut_is_found_out_in_single_precision_too():
    def written(x: Tensor) -> Tensor:
        return refusing(x) / x.shape[1]

    model = around(Forward(written))
    network = verified(model, trace(model, images(1)))
    assert [group.name for group in network.groups] == ["3"]
    assert "differs from the masked dense one" in network.frozen["0"]


class SmallPart(nn.Module):
    """Puts out 10 and a little, of which a width that is written into the forward makes a wrong part."""

    def __init__(self, written: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3), nn.Linear(12, 5)
        self.written = written

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(self.written(x)).relu()
        return 10 + 1e-2 * self.head(self.second(features).relu().mean((2, 3))) * features.shape[1] / 16


@pytest.mark.parametrize("written", [lambda x: x, refusing])
def test_a_wrong_cut_of_a_small_part_of_the_outputs_is_found_out_in_both_precisions(written):
    torch.manual_seed(0)
    model = SmallPart(written).eval()
    network = verified(model, trace(model, images(1)))
    assert [group.name for group in network.groups] == ["second"]
    assert "differs from the masked dense one" in network.frozen["first"]


def test_a_deep_network_is_proved_in_single_precision_by_what_rounding_does_to_it():
    torch.manual_seed(0)
    model = around(nn.Sequential(Forward(refusing), *(unit(8, 8) for _ in range(12))))
    with torch.no_grad(), FittedNorms(model):
        model(torch.randn(16, 3, 12, 12))
    network = trace(model, images(1))
    assert len(network.groups) == 14
    assert verified(model, network).groups == network.groups
    found = [verify(model, network, seed=seed) for seed in range(3)]
    assert all(item.holds and item.precision is SINGLE and item.tolerance < 1e-4 for item in found)


@pytest.mark.parametrize(("rounding", "tolerance"), [(0.0, 16 * 2**-23), (1e-5, 1e-4), (float("inf"), 1e-3)])
def test_what_is_allowed_follows_rounding_within_limits(rounding, tolerance):
    assert allowed(rounding) == pytest.approx(tolerance)


def test_where_the_dense_network_runs_in_double_a_cut_that_fails_is_not_run_again():
    sizes = []

    def asking(x: Tensor) -> Tensor:
        sizes.append((x.shape[1], x.dtype))
        if x.shape[1] != 8:
            raise AssertionError
        return x

    model = around(Forward(asking))
    network = trace(model, images(1))
    sizes.clear()
    found = verified(model, network)
    assert found.frozen["0"] == "the forward fails once it is cut (AssertionError)"
    assert [group.name for group in found.groups] == ["3"]
    cuts = [dtype for size, dtype in sizes if size < 8]
    assert cuts == [torch.float64] * 2


@pytest.mark.parametrize("function", [LEAVING["float"], refusing])
def test_whether_a_group_may_vanish_is_proved_in_the_same_precision(function):
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), Forward(function), nn.Conv2d(6, 8, 3, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.branch(x)

    model = around(Residual())
    network = verified(model, trace(model, images(1)))
    network, refused = with_vanishing(model, allowed_to_vanish(network, {"2.branch.0"}))
    assert refused == {}
    assert [group.name for group in network.groups if group.may_vanish] == ["2.branch.0"]


def test_a_forward_in_double_is_what_it_is_without_casts():
    casting, plain = around(Forward(LEAVING["half"])).double(), around(nn.Identity()).double()
    plain.load_state_dict(casting.state_dict())
    x = images(2).double()
    with torch.no_grad(), DOUBLE.kept():
        assert torch.equal(casting(x), plain(x))
