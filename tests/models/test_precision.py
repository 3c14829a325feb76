"""Networks whose forward leaves double precision are proved all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.models.depth import allowed_to_vanish, with_vanishing
from autoprune.models.precision import DOUBLE, SINGLE
from autoprune.models.tracing import trace
from autoprune.models.verify import verified, verify
from tests.models.toy_networks import images


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
