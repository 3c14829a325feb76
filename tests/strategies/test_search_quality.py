"""What the strategies find on a recorded network: fixed seeds, no network, no clock."""

from statistics import mean

from autoprune.strategies import make_strategy
from autoprune.testing import simulate, tabular_landscape

TABLE = "digits-resnet"
SEEDS = (0, 1)
#: Points that another strategy may lie above the default: what two seeds differ by.
MARGIN = 0.1
#: Points that the default must lie above chance and rule of thumb.
LEAD = 0.3


def found_by(name: str, *, candidates: int) -> float:
    """Returns the mean quality of the incumbents, without noise, in points."""
    found = []
    for seed in SEEDS:
        landscape = tabular_landscape(TABLE, budget="50%flops", seed=seed)
        space, profile = landscape.space, landscape.profile
        strategy = make_strategy(name, space=space, profile=profile, seed=seed, candidates=candidates)
        found.append(simulate(strategy, landscape, candidates=candidates, workers=4, seed=seed).accuracy)
    return 100 * mean(found)


def test_the_default_is_at_least_as_good_as_every_other_strategy_on_a_recorded_network() -> None:
    others = {
        name: found_by(name, candidates=100)
        for name in ("tpe", "nsga2", "pso", "mopso", "sensitivity", "random", "uniform")
    }
    best = found_by("auto", candidates=100)
    said = f"auto {best:.2f}, {others}"
    assert all(best > other - MARGIN for other in others.values()), said
    assert best > max(others["random"], others["uniform"]) + LEAD, said
    # The same with a quarter of the candidates, most of which are heuristics.
    assert found_by("auto", candidates=25) > others["random"], said
