import numpy as np
import pytest

from autoprune.core.budget import parse_budgets
from autoprune.core.cost import AxisWidth
from autoprune.core.forms import FloatArray, LargestForm
from autoprune.core.latency import LatencyForm, LayerTable, monotone
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.errors import BudgetError
from tests.core.chain_network import network

FIRST, SECOND = AxisWidth(0, ((0, 1),)), AxisWidth(2, ((1, 1), (2, 2)))


def product(rows: list[int], columns: list[int]) -> FloatArray:
    return np.outer(rows, columns).astype(float)


def form(scale: float = 1.0) -> LatencyForm:
    """Two layers whose tables are products of widths, so that bilinear interpolation is exact."""
    layers = [
        LayerTable(AxisWidth(3), FIRST, [3], [1, 7, 16], product([3], [1, 7, 16]), size=10),
        LayerTable(FIRST, SECOND, [1, 4, 16], [5, 50, 106], product([1, 4, 16], [5, 50, 106]), size=5),
    ]
    return LatencyForm.of(layers, 4).calibrated(scale=scale, per_element=0.5, constant=100.0)


def widths(count: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(1, (17, 25, 41, 65), (count, 4)).astype(float)


def test_layers_are_interpolated_and_the_rest_is_added() -> None:
    w = widths()
    out = 2 + w[:, 1] + 2 * w[:, 2]
    expected = 2 * (3 * w[:, 0] + w[:, 0] * out) + 0.5 * (10 * w[:, 0] + 5 * out) + 100
    np.testing.assert_allclose(form(scale=2.0).relaxed(w), expected)


def test_latency_never_falls_when_a_width_grows_however_noisy_the_table() -> None:
    rng = np.random.default_rng(1)
    noisy = product([1, 4, 16], [5, 50, 106]) * rng.uniform(0.5, 2.0, (3, 3))
    table = LatencyForm.of([LayerTable(FIRST, SECOND, [1, 4, 16], [5, 50, 106], noisy, size=5)], 4)
    for group in range(4):
        wider = widths()
        wider[:, group] += 1
        assert (table.relaxed(wider) >= table.relaxed(widths())).all()


def test_a_monotone_table_stays_as_it_is_and_a_noisy_one_becomes_monotone() -> None:
    table = product([1, 2, 3], [1, 5])
    np.testing.assert_array_equal(monotone(table), table)
    mended = monotone(np.random.default_rng(0).uniform(size=(6, 7)))
    assert (np.diff(mended, axis=0) >= 0).all()
    assert (np.diff(mended, axis=1) >= 0).all()


def test_forms_that_would_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="falls when a width grows"):
        form().calibrated(scale=1.0, per_element=-1.0, constant=0.0)
    with pytest.raises(ValueError, match="falls when a width grows"):
        LargestForm(np.array([[1.0, -1.0]]), np.zeros(1))


def test_a_layer_that_is_not_there_takes_no_time() -> None:
    gone = np.array([[0.0, 3.0, 4.0, 5.0]])
    assert form().parts(gone)[0] == 0.0


def test_a_restricted_form_agrees_where_the_others_are_dense() -> None:
    dense, order = [16, 24, 40, 64], [2, 0]
    w = widths()
    whole = np.tile(np.array(dense, dtype=float), (len(w), 1))
    whole[:, order] = w[:, order]
    np.testing.assert_allclose(form().restricted(order, dense).relaxed(w[:, order]), form().relaxed(whole))


def test_the_slope_of_a_smooth_table_is_its_derivative() -> None:
    w = widths(10)
    slope = form().gradient(np.clip(w, 2, [14, 20, 36, 60]))
    assert (slope[:, 3] == 0).all()
    np.testing.assert_allclose(slope[:, 1], np.clip(w, 2, [14, 20, 36, 60])[:, 0] + 2.5, rtol=0.02)


@pytest.mark.parametrize("budget", ["60%latency", "60%latency+55%flops+70%params", "60%peak", "60%peak+60%latency"])
def test_projections_hold_budgets_of_every_resource(budget: str) -> None:
    groups, cost_model = network()
    peak = LargestForm.of(np.array([[4.0, 1, 0, 0], [0, 2, 3, 0], [1, 0, 0, 0]]), np.array([10.0, 0.0, 5.0]))
    cost_model = cost_model.with_form("latency", form()).with_form("peak", peak)
    space = SearchSpace.build(groups, cost_model, parse_budgets(budget.split("+")))
    for structure in [space.uniform(), *space.sample(30, np.random.default_rng(0))]:
        assert space.is_legal(structure)
        assert all(limit.allows(space.cost(structure)) for limit in space.limits)
        # No channel is left out that costs nothing of what is limited.
        if budget == "60%peak":
            assert structure.widths[3] == groups[3].width


def test_an_unreachable_latency_is_named_in_the_unit_of_the_user() -> None:
    groups, cost_model = network()
    cost_model = cost_model.with_form("latency", form().calibrated(scale=1.0, per_element=0.0, constant=2_000_000.0))
    least = cost_model.cost(Structure((1, 1, 1, 1))).of("latency")
    with pytest.raises(BudgetError, match=r"'1ms' \(1\.00 ms\) cannot be reached: .* 2\.01 ms \(9\d\.\d % of dense\)"):
        SearchSpace.build(groups, cost_model, parse_budgets("1ms"))
    space = SearchSpace.build(groups, cost_model, parse_budgets(f"{least}ns"))
    assert space.cost(space.uniform()).of("latency") == least


def test_a_budget_on_what_was_not_measured_is_one_clear_line() -> None:
    groups, cost_model = network()
    with pytest.raises(BudgetError, match="latency is not known"):
        SearchSpace.build(groups, cost_model, parse_budgets("5ms"))
