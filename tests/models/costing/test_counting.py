"""The count on a network that runs, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from autoprune.models.costing.counting import count
from autoprune.models.tracing.tracer import trace
from tests.models.toy_networks import SHAPE, toy


def counted_by_torch(model: nn.Module, x: Tensor) -> int:
    """Returns MACs, those of products of two activations included."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(x)
    return counter.get_total_flops() // 2


def pooled(*layers: nn.Module) -> nn.Sequential:
    """Returns a network of linear layers behind a convolution."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers).eval()


class Normalised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, functional.normalize(self.weight), self.bias)


class Adapted(nn.Linear):
    """A linear layer with a low-rank correction that is added to its weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.up, self.down = nn.Parameter(torch.randn(outputs, 2)), nn.Parameter(torch.randn(2, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight + self.up @ self.down, self.bias)


class Part(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight[:5], self.bias[:5])


class Turned(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class Fixed(nn.Module):
    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(8, 8), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class Gram(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.T @ x


@pytest.mark.parametrize("layer", [
    parametrizations.weight_norm(nn.Linear(8, 8)), parametrizations.spectral_norm(nn.Linear(8, 8)), Normalised(8, 8),
    Adapted(8, 8), Turned(8, 8), Fixed(persistent=True), Fixed(persistent=False),
], ids=lambda layer: type(layer).__name__)  # fmt: skip
def test_linear_layers_whose_weight_is_computed_or_fixed_are_counted_and_computed(layer):
    model = pooled(layer, nn.ReLU(), nn.Linear(8, 4))
    dense = trace(model, torch.zeros(1, *SHAPE)).cost_model.dense
    assert dense == count(model, (1, *SHAPE))
    assert dense.macs == counted_by_torch(model, torch.zeros(1, *SHAPE))


def test_parts_of_a_weight_count_as_what_they_multiply():
    model = pooled(Part(8, 8), nn.ReLU(), nn.Linear(5, 4))
    dense = trace(model, torch.zeros(1, *SHAPE)).cost_model.dense
    assert dense == count(model, (1, *SHAPE))
    assert dense.macs == 100 * 27 * 8 + 8 * 5 + 5 * 4


def test_products_of_activations_are_no_layers():
    model = pooled(Gram(), nn.Linear(8, 4))
    dense = trace(model, torch.zeros(1, *SHAPE)).cost_model.dense
    assert dense == count(model, (1, *SHAPE))
    assert dense.macs == 100 * 27 * 8 + 8 * 4


def test_computed_weights_are_told_layer_by_layer_where_a_parameter_has_their_size():
    model = toy("computed matrices")
    network = trace(model, torch.zeros(1, *SHAPE))
    assert network.cost_model.dense.macs == counted_by_torch(model, torch.zeros(1, *SHAPE))
    layers = network.cost_model.by_layer(network.dense)
    assert layers["first.parametrizations.weight"].macs == 6 * 9
    assert layers["computed in the forward"].macs == 144 * 6 * 6 * 9 + 100 * 6 * 9
