"""What the strategies find on recorded networks: fixed seeds, no network, no clock."""

from statistics import mean

import pytest

from autoprune.strategies import make_strategy
from autoprune.testing import simulate, tabular_landscape

#: Points that another strategy may lie above the default: what means over the seeds differ by.
TABLES = {"digits-resnet": 0.1, "resnet20-b": 0.5}
SEEDS = (0, 1, 2, 3)
#: Points that the default must lie above chance and rule of thumb.
LEAD = 0.3


def found_by(name: str, table: str, *, candidates: int) -> float:
    """Returns the mean quality of the incumbents, without noise, in points."""
    found = []
    for seed in SEEDS:
        landscape = tabular_landscape(table, budget="50%flops", seed=seed)
        space, profile = landscape.space, landscape.profile
        strategy = make_strategy(name, space=space, profile=profile, seed=seed, candidates=candidates)
        found.append(simulate(strategy, landscape, candidates=candidates, workers=4, seed=seed).accuracy)
    return 100 * mean(found)


@pytest.mark.parametrize("table", TABLES)
def test_the_default_is_at_least_as_good_as_every_other_strategy_on_a_recorded_network(table: str) -> None:
    others = {
        name: found_by(name, table, candidates=100)
        for name in ("tpe", "nsga2", "pso", "mopso", "sensitivity", "random", "uniform")
    }
    best = found_by("auto", table, candidates=100)
    said = f"auto {best:.2f}, {others}"
    assert all(best > other - TABLES[table] for other in others.values()), said
    assert best > max(others["random"], others["uniform"]) + LEAD, said
    # The same with a quarter of the candidates, most of which are heuristics.
    assert found_by("auto", table, candidates=25) > others["random"], said
