from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.budget import parse_budgets
from autoprune.core.candidate import Evaluation
from autoprune.core.space import SearchSpace
from autoprune.strategies import make_strategy
from autoprune.strategies.base import common_scale
from autoprune.strategies.surrogate import Surrogate, WidthFeatures
from autoprune.strategies.tables import DamageTables, allocated, level_widths, near_widths, padded, thresholded
from autoprune.testing import Landscape, resnet_landscape, simulate
from autoprune.testing.landscape import simulated_ladder


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return resnet_landscape(seed=0, blocks=3)


def found_by(name: str, landscape: Landscape, candidates: int) -> float:
    strategy = make_strategy(name, space=landscape.space, profile=landscape.profile, seed=3, candidates=candidates)
    return simulate(strategy, landscape, candidates=candidates, workers=2, seed=3).accuracy


def test_the_default_beats_random_search_and_uniform_widths(landscape: Landscape) -> None:
    uniform = landscape.accuracy(landscape.space.uniform())
    assert found_by("auto", landscape, 30) > max(uniform, found_by("random", landscape, 30)) + 0.01


@pytest.mark.parametrize("resource", ["macs", "params"])
def test_the_default_searches_a_front_over_the_whole_band(resource: str) -> None:
    landscape = resnet_landscape(seed=0, blocks=1, budget=f"20..80%{resource}")
    strategy = make_strategy("auto", space=landscape.space, profile=landscape.profile, seed=0, candidates=30)
    told = simulate(strategy, landscape, candidates=30).evaluations
    shares = [landscape.space.share(one.candidate.cost) for one in told]
    counts, _ = np.histogram(shares, bins=[0.15, 0.35, 0.5, 0.65, 0.8])
    assert counts.min() >= 3


def test_the_default_spreads_a_front_over_what_can_be_reached(landscape: Landscape) -> None:
    """With a floor at 20 %, where no structure lies, 11 of 40 proposals lay within 2 points of the smallest."""
    groups = [replace(group, min_width=int(0.4 * group.width)) for group in landscape.space.groups]
    space = SearchSpace.build(groups, landscape.space.cost_model, parse_budgets("20..80%flops"))
    strategy = make_strategy("auto", space=space, profile=landscape.profile, seed=0, candidates=40)
    told = simulate(strategy, replace(landscape, space=space), candidates=40).evaluations
    shares = np.array([space.share(one.candidate.cost) for one in told])
    least = space.share(space.cost(space.smallest))
    counts, _ = np.histogram(shares, bins=np.linspace(least, 0.8, 5))
    assert counts.min() >= 5
    assert (shares < least + 0.02).sum() <= 4


def test_two_swarms_keep_workers_busy_over_the_barrier_of_one(landscape: Landscape) -> None:
    strategy = make_strategy("pso", space=landscape.space, profile=landscape.profile, seed=0, candidates=60)
    assert simulate(strategy, landscape, candidates=60, workers=2).idle <= 3


def test_sensitivity_proposes_its_two_solutions_last_and_within_budget(landscape: Landscape) -> None:
    space = landscape.space
    strategy = make_strategy("sensitivity", space=space, profile=landscape.profile, seed=0, candidates=20)
    told = simulate(strategy, landscape, candidates=20).evaluations
    legal = [space.is_legal(one.candidate.structure) for one in sorted(told, key=lambda one: one.candidate.id)]
    assert legal == [False] * 18 + [True] * 2


def test_outcomes_of_different_rungs_come_on_one_scale_in_the_order_of_merit(landscape: Landscape) -> None:
    rng, rungs = np.random.default_rng(0), simulated_ladder(3).rungs
    strategy = make_strategy("random", space=landscape.space, profile=None, seed=0, candidates=60)
    first = simulate(strategy, landscape, candidates=60).evaluations
    mixed: list[Evaluation] = []
    for one in first:
        level = int(rng.choice(3, p=[0.6, 0.3, 0.1]))
        mixed.append(replace(one, candidate=replace(one.candidate, fidelity=rungs[level])))
    values = common_scale(mixed)
    order = np.argsort([one.merit for one in mixed], kind="stable")
    assert (np.diff(values[order]) >= 0).all()
    assert np.ptp(values) < 2.0
    same = common_scale(first)
    np.testing.assert_array_equal(same, [one.score for one in first])


def test_the_surrogate_recovers_values_that_follow_its_prior(landscape: Landscape) -> None:
    features = WidthFeatures(landscape.space, landscape.profile)
    rng = np.random.default_rng(0)
    widths = np.array([s.widths for s in landscape.space.sample(80, rng)], dtype=float)
    effects = rng.uniform(0.5, 1.5, landscape.space.dimension)
    values = -features.energy(widths) @ effects
    surrogate = Surrogate(features, widths=widths[:60], values=values[:60])
    mean, variance = surrogate.posterior(widths[60:])
    assert np.corrcoef(surrogate.restore(mean), values[60:])[0, 1] > 0.95
    assert (variance < 0.1).all()
    by_energy, _ = surrogate.additive_effects(rng)
    assert by_energy.mean() < 0


def test_constant_values_break_no_surrogate(landscape: Landscape) -> None:
    features = WidthFeatures(landscape.space, None)
    widths = np.array([landscape.space.uniform().widths] * 4, dtype=float)
    mean, variance = Surrogate(features, widths=widths, values=np.full(4, 0.5)).posterior(widths)
    assert np.isfinite(mean).all()
    assert np.isfinite(variance).all()


def test_tables_are_solved_within_budget_and_no_worse_than_samples(landscape: Landscape) -> None:
    space = landscape.space
    rows = level_widths(space, 100)
    tables = DamageTables.of(
        rows, [row[widths.astype(int)] for row, widths in zip(landscape.errors, rows, strict=True)]
    )

    def damages(widths: tuple[int, ...]) -> np.ndarray:
        return np.array([row[width] for row, width in zip(landscape.errors, widths, strict=True)])

    samples = space.sample(200, np.random.default_rng(0))
    least, flattest = allocated(space, tables), thresholded(space, tables)
    assert space.is_legal(least)
    assert space.is_legal(flattest)
    assert damages(least.widths).sum() <= min(damages(one.widths).sum() for one in samples)
    assert damages(flattest.widths).max() <= min(damages(one.widths).max() for one in samples) + 0.02


@pytest.mark.parametrize("reach", [0.0, 0.05, 0.4, 3.0])
def test_near_widths_are_the_levels_within_reach_and_the_centre(reach: float) -> None:
    rng = np.random.default_rng(0)
    levels = [np.unique(rng.integers(1, 40, size)).astype(float) for size in (1, 3, 12, 30)]
    centre = np.array([levels[0][0], levels[1][-1], 17.0, 20.0])
    found = near_widths(padded(levels), centre, reach=reach)
    for row, mine, middle in zip(found, levels, centre, strict=True):
        low, high = middle / np.exp(reach) - 1, middle * np.exp(reach) + 1
        wanted = sorted({middle, *(level for level in mine.tolist() if low <= level <= high)})
        assert row.tolist() == [*wanted, *[wanted[-1]] * (found.shape[1] - len(wanted))]
    assert any(len(set(row)) == found.shape[1] for row in found.tolist())
