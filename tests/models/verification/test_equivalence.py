"""What is frozen where arithmetic and count of a network disagree."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.models.costing.counting import count
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import largest_deviation, verified, verify
from tests.models.toy_networks import SHAPE, Toy, images, settled, toy, unit


class OnlyInDouble(Toy):
    """Runs a convolution in double precision alone, in which networks are proved, so that no trace knows of it.

    Args:
        where: whether it reads the image, or channels that can be cut.
    """

    def __init__(self, where: str) -> None:
        super().__init__(6)
        self.stem, self.middle, self.last = unit(3, 8), unit(8, 7), unit(7, 6)
        self.where = where

    def body(self, x: Tensor) -> Tensor:
        features = self.middle(self.stem(x))
        read = x if self.where == "image" else features
        if x.dtype == torch.float64:
            functional.conv2d(read, torch.ones(4, read.shape[1], 1, 1, dtype=x.dtype))
        return self.last(features)


def proved(where: str):
    model = settled(OnlyInDouble(where))
    network = trace(model, torch.zeros(1, *SHAPE))
    return model, network, verified(model, network)


def test_a_cost_that_no_cut_changes_freezes_nothing_and_is_added():
    model, network, found = proved("image")
    assert found.groups == network.groups
    assert found.cost_model.dense.macs == network.cost_model.dense.macs + 144 * 3 * 4
    assert found.cost_model.dense == count(model.double(), (1, *SHAPE), dtype=torch.float64)


def test_a_cost_that_cuts_change_freezes_the_groups_that_change_it():
    model, _, found = proved("features")
    assert [group.name for group in found.groups] == ["stem.0", "last.0"]
    reason = "makes [0-9,]+ multiply-accumulates with [0-9,]+ parameters, not the computed [0-9,]+ with"
    assert re.search(reason, found.frozen["middle.0"])
    assert verify(model, found).holds


def test_a_forward_that_does_not_run_on_two_images_is_told_of_every_group():
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 1:
                raise RuntimeError("one at a time")
            return x

    model = nn.Sequential(nn.Conv2d(3, 6, 3), Refuses(), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 2, 3)).eval()
    found = verified(model, trace(model, images(1)))
    assert found.groups == ()
    assert "one at a time" in found.frozen["0"]
    assert "one at a time" in found.frozen["2"]


def test_an_exception_without_text_is_told_by_its_name():
    class Insists(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] != 6:
                raise ValueError
            return x

    model = nn.Sequential(nn.Conv2d(3, 6, 3), Insists(), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 2, 3)).eval()
    found = verified(model, trace(model, images(1)))
    assert [group.name for group in found.groups] == ["2"]
    assert found.frozen["0"] == "the forward fails once it is cut (ValueError)"


def test_views_that_are_images_of_their_own_cost_as_many_times_as_much():
    network = trace(toy("views as images"), torch.zeros(1, *SHAPE))
    layers = network.cost_model.by_layer(network.dense)
    assert layers["stem.0"].macs == 3 * 144 * 9 * 3 * 8
    assert layers["last.0"].macs == 144 * 9 * 7 * 6


def test_layers_in_mixed_precision_are_cut_as_in_full_precision():
    model = toy("mixed precision")
    network = verified(model, trace(model, torch.zeros(1, *SHAPE)))
    assert [group.name for group in network.groups] == ["stem.0", "middle", "last.0", "up"]


def test_a_recurrent_layer_costs_the_same_as_one_operation_and_as_many():
    model = toy("long short-term memory")
    network = trace(model, torch.zeros(1, *SHAPE))
    assert network.cost_model.by_layer(network.dense)["rows"].macs == 2 * 12 * (12 * 6 + 12 * 3)
    assert count(model, (1, *SHAPE)) == count(model.double(), (1, *SHAPE), dtype=torch.float64)
    assert [group.name for group in verified(toy("long short-term memory"), network).groups] == [
        "stem.0",
        "middle.0",
        "last.0",
    ]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("expected", "found", "deviation"),
    [
        ([1.0, 4.0], [1.0, 3.0], 0.25),
        ([1.0, NAN], [1.0, NAN], 0.0),
        ([1.0, INF], [1.0, INF], 0.0),
        ([1.0, NAN], [1.0, 2.0], INF),
        ([1.0, 2.0], [1.0, NAN], INF),
        ([1.0, INF], [1.0, -INF], INF),
        ([1.0, NAN], [1.0, INF], INF),
        ([NAN, NAN], [NAN, NAN], INF),
        ([], [], 0.0),
    ],
)
def test_values_that_are_not_finite_agree_only_with_their_like(expected, found, deviation):
    assert largest_deviation([torch.tensor(expected)], [torch.tensor(found)]) == deviation


def test_a_network_that_computes_nothing_finite_proves_nothing():
    class Lost(Toy):
        def __init__(self) -> None:
            super().__init__(6)
            self.stem = unit(3, 6)

        def body(self, x: Tensor) -> Tensor:
            return self.stem(x) * float("nan")

    model = settled(Lost())
    found = verified(model, trace(model, images(1)))
    assert found.groups == ()
    assert "differs from the masked dense one by inf" in found.frozen["stem.0"]
