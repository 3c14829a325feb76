import math

import pytest

from autoprune.strategies import make_strategy
from autoprune.testing import Crew, Landscape, Simulation, resnet_landscape, simulate


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return resnet_landscape(seed=0, blocks=1, rungs=2)


def run(landscape: Landscape, crew: Crew, *, candidates: int = 60) -> Simulation:
    strategy = make_strategy("random", space=landscape.space, profile=None, seed=0, candidates=candidates)
    return simulate(strategy, landscape, candidates=candidates, seed=0, crew=crew)


def test_more_workers_take_less_time_for_the_same_work(landscape: Landscape) -> None:
    alone, together = (run(landscape, Crew(workers)) for workers in (1, 8))
    assert alone.utilisation == pytest.approx(1.0)
    assert together.utilisation == pytest.approx(1.0)
    assert alone.seconds == pytest.approx(alone.busy_seconds)
    assert 5 < alone.seconds / together.seconds <= 8.5


def test_a_slower_pace_stretches_every_time_and_changes_nothing_else(landscape: Landscape) -> None:
    usual, slow = (run(landscape, Crew(4, pace=pace)) for pace in (1.0, 50.0))
    assert slow.seconds == pytest.approx(50 * usual.seconds)
    assert [one.accuracy for one in slow.steps] == [one.accuracy for one in usual.steps]


def test_times_with_a_heavy_tail_have_the_same_mean_and_some_very_long_ones(landscape: Landscape) -> None:
    even, heavy = (run(landscape, Crew(4, tail=tail), candidates=600) for tail in (math.inf, 1.5))
    long = [max(one.seconds for one in found.evaluations) for found in (even, heavy)]
    assert long[1] > 8 * long[0]
    assert heavy.busy_seconds == pytest.approx(even.busy_seconds, rel=0.5)


def test_the_stated_share_of_evaluations_fails_and_the_search_goes_on(landscape: Landscape) -> None:
    found = run(landscape, Crew(4, failures=0.25), candidates=200)
    assert 0.6 < len(found.evaluations) / 200 < 0.85
    assert found.incumbent is not None


def test_the_first_time_that_a_quality_is_reached_is_known(landscape: Landscape) -> None:
    found = run(landscape, Crew(2))
    best = max(found.steps, key=lambda step: step.accuracy)
    assert found.seconds_to(best.accuracy) == best.seconds <= found.seconds
    assert found.seconds_to(2.0) is None
    assert [step.seconds for step in found.steps] == sorted(step.seconds for step in found.steps)


def test_workers_wait_for_a_slow_driver_only_when_asked_to(landscape: Landscape) -> None:
    free, slow = (run(landscape, Crew(16, slow_driver=slow)) for slow in (False, True))
    assert free.driver_seconds > 0
    assert slow.seconds > free.seconds
    assert run(landscape, Crew(16)).steps == free.steps
