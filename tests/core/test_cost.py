import numpy as np
import pytest

from autoprune.core.cost import AxisWidth, Cost, CostModel, LayerTerm
from autoprune.core.structure import Structure
from tests.core.chain_network import network


def naive(terms: tuple[LayerTerm, ...], widths: tuple[int, ...]) -> Cost:
    """Counts tensor by tensor in plain integers."""
    macs = params = 0
    for term in terms:
        out = term.out.constant + sum(m * widths[i] for i, m in term.out.groups)
        inner = term.inner.constant + sum(m * widths[i] for i, m in term.inner.groups)
        params += term.size * out * inner
        macs += term.uses * term.size * out * inner
    return Cost(macs, params)


def structures(count: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(1, (17, 25, 41, 65), (count, 4))


def test_the_quadratic_form_equals_a_naive_count_to_the_last_unit() -> None:
    _, model = network()
    rows = structures()
    macs, params = model.costs("macs", rows), model.costs("params", rows)
    for index, row in enumerate(rows):
        widths = tuple(int(width) for width in row)
        assert Cost(int(macs[index]), int(params[index])) == naive(model.terms, widths)
        assert model.cost(Structure(widths)) == naive(model.terms, widths)


def test_costs_of_large_networks_are_exact() -> None:
    term = LayerTerm("l.weight", 9, 112 * 112, AxisWidth(1, ((0, 1),)), AxisWidth(0, ((1, 3),)))
    model = CostModel((4097, 4093), (term,))
    assert model.dense == naive(model.terms, (4097, 4093))


def test_layers_add_up_to_the_whole() -> None:
    _, model = network()
    for row in structures(20):
        structure = Structure(tuple(int(width) for width in row))
        layers = model.by_layer(structure)
        assert list(layers) == ["a", "b", "same", "depthwise", "c", "d", "fc"]
        assert Cost(
            sum(cost.macs for cost in layers.values()), sum(cost.params for cost in layers.values())
        ) == model.cost(structure)


def test_cost_grows_with_every_width() -> None:
    _, model = network()
    for row in structures(30):
        for group in range(4):
            wider = row.copy()
            wider[group] += 1
            for resource in ("macs", "params"):
                assert model.costs(resource, [wider])[0] > model.costs(resource, [row])[0]


@pytest.mark.parametrize("resource", ["macs", "params"])
def test_the_gradient_is_the_derivative(resource: str) -> None:
    _, model = network()
    form, rows = model.forms[resource], structures(10).astype(float)
    for group in range(4):
        step = np.zeros(4)
        step[group] = 1e-3
        numeric = (form.relaxed(rows + step) - form.relaxed(rows - step)) / 2e-3
        np.testing.assert_allclose(form.gradient(rows)[:, group], numeric, rtol=1e-6)


def test_flops_are_two_per_multiply_accumulate() -> None:
    assert Cost(macs=21, params=3).flops == 42


def test_an_axis_adds_constants_and_multiples() -> None:
    assert AxisWidth(5, ((0, 1), (2, 4))).of((3, 100, 7)) == 5 + 3 + 28
