from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from autoprune.data.dataset_images import DatasetImages
from autoprune.errors import ConfigError, ModelError
from autoprune.methods.orthoreg import OrthoReg, filters, orthogonality
from autoprune.training import Recipe, train
from autoprune.training.hooks import TrainingState
from tests.models.toy_networks import NETWORKS, images, toy

DOUBLE = torch.float64


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(5, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def begun(model: nn.Module, strength: float = 0.01) -> OrthoReg:
    hook = OrthoReg(strength)
    hook.begin(TrainingState(model, torch.optim.SGD(model.parameters(), lr=0.1), 1.0, torch.device("cpu")))
    return hook


def entries(layer: nn.Conv2d) -> list[list[float]]:
    """Returns P as nested lists, the bias last."""
    rows = [row.tolist() for row in layer.weight.detach().reshape(len(layer.weight), -1)]
    if layer.bias is not None:
        rows = [[*row, float(shift)] for row, shift in zip(rows, layer.bias.detach(), strict=True)]
    return rows


def deviation(vectors: list[list[float]]) -> float:
    """Returns the entrywise distance of the vectors' inner products from the identity."""
    return sum(
        abs(sum(a * b for a, b in zip(first, second, strict=True)) - (1.0 if i == j else 0.0))
        for i, first in enumerate(vectors)
        for j, second in enumerate(vectors)
    )


def transposed(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def test_the_penalty_is_the_weighted_sum_of_a_naive_loop():
    model = network().double()
    first, second, third = (entries(model[index]) for index in (0, 2, 4))
    # 6 filters of 28 entries, but the first layer; 5 of 54; 8 of 6, of which P P^T cannot be the identity.
    sizes = [math.sqrt(6), math.sqrt(5), math.sqrt(6)]
    terms = [deviation(transposed(first)), deviation(second), deviation(transposed(third))]
    expected = 0.01 * sum(size / sum(sizes) * term for size, term in zip(sizes, terms, strict=True))
    assert begun(model).penalty().item() == pytest.approx(expected, rel=1e-12)
    assert begun(model, strength=0.5).penalty().item() == pytest.approx(50 * expected, rel=1e-12)


def test_the_gradient_agrees_with_finite_differences():
    model = network().double()
    penalty = begun(model).penalty()
    parameters = [model[0].weight, model[0].bias, model[2].weight, model[4].weight, model[4].bias]
    gradients = torch.autograd.grad(penalty, parameters)
    generator = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
            values.append(begun(model).penalty().item())
            with torch.no_grad():
                parameter.sub_(step * direction)
        assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-9)


def test_orthonormal_filters_cost_nothing():
    generator = torch.Generator().manual_seed(0)
    wide = torch.linalg.qr(torch.randn(9, 4, generator=generator, dtype=DOUBLE)).Q.T
    tall = torch.linalg.qr(torch.randn(9, 4, generator=generator, dtype=DOUBLE)).Q
    assert orthogonality([tall, wide, tall]).item() == pytest.approx(0, abs=1e-13)
    assert orthogonality([tall, wide.repeat(2, 1)]).item() > 1


def test_linear_layers_are_left_alone():
    model = network()
    before = begun(model).penalty().item()
    with torch.no_grad():
        model[7].weight.mul_(9)
    assert begun(model).penalty().item() == before


def test_a_layer_with_and_without_bias_gives_its_filters():
    model = network()
    assert filters(model[0]).shape == (6, 28)
    assert filters(model[2]).shape == (5, 54)
    assert torch.equal(filters(model[0])[:, -1], model[0].bias)


def test_convolutions_in_torchscript_count():
    model = network()
    wanted = begun(model).penalty().item()
    for scripted in (torch.jit.script(model), torch.jit.trace(model, images(1))):
        assert begun(nn.Sequential(scripted)).penalty().item() == pytest.approx(wanted, rel=1e-6)


def test_training_with_it_makes_filters_orthonormal():
    x, labels = images(32), torch.arange(32) % 4
    found = {}
    for strength in (0.0, 0.3):
        model = network()
        train(
            model,
            DatasetImages(torch.utils.data.TensorDataset(x, labels)),
            range(32),
            Recipe(epochs=6, learning_rate=0.05, batch_size=16, weight_decay=0.0),
            seed=0,
            hooks=[OrthoReg(strength)],
        )
        found[strength] = orthogonality([filters(model[index]) for index in (0, 2, 4)]).item()
    assert found[0.3] < 0.75 * found[0.0]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_finite_penalty_with_gradients_unless_it_has_no_convolution(name):
    model = toy(name)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        with pytest.raises(ModelError, match="no convolution layer"):
            begun(model)
        return
    penalty = begun(model).penalty()
    penalty.backward()
    assert penalty.isfinite()
    assert penalty > 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("strength", [-0.1, math.inf, math.nan])
def test_a_strength_that_is_no_number_of_at_least_zero_is_refused(strength):
    with pytest.raises(ConfigError, match="strength"):
        OrthoReg(strength)


def test_nothing_to_regularise_is_an_error():
    with pytest.raises(ModelError, match="no convolution layer"):
        begun(nn.Linear(3, 3))
