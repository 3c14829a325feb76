"""Invariants: standings agree with the core's front; order of arrival and repetition change nothing."""

from __future__ import annotations

import random

import pytest

from autoprune.core.front import ParetoFront
from autoprune.tracking.standings import Standings
from tests.tracking.tracked_candidates import DENSE, evaluation


def filled(evaluations, resource: str = "macs") -> Standings:
    standings = Standings(resource)
    for one in evaluations:
        standings.tell(one)
    return standings


def some(count: int) -> list:
    rng = random.Random(0)
    return [
        evaluation(i, rng.random(), widths=(rng.randint(1, 16), rng.randint(1, 32), rng.randint(1, 64)))
        for i in range(count)
    ]


@pytest.mark.parametrize("resource", ["macs", "params"])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_the_front_and_its_hypervolume_are_the_cores(count: int, resource: str) -> None:
    evaluations = some(count)
    standings, front = filled(evaluations, resource), ParetoFront.of(evaluations, resource)
    assert [one.id for one in standings.front] == [one.candidate.id for one in front]
    assert standings.hypervolume(DENSE) == pytest.approx(front.hypervolume(DENSE))


def test_order_of_arrival_and_repetition_change_nothing() -> None:
    evaluations = some(30)
    shuffled = random.Random(1).sample(evaluations, 30) + evaluations[:10]
    assert filled(shuffled).front == filled(evaluations).front
    assert filled(shuffled).best == filled(evaluations).best


def test_a_candidate_that_climbed_higher_ranks_above_a_better_score_below() -> None:
    standings = filled([evaluation(0, 0.9), evaluation(1, 0.8), evaluation(1, 0.4, level=1)])
    assert standings.best is not None
    assert standings.best.id == 1
    assert [one.id for one in standings.front] == [1]


def test_a_lower_rung_never_overwrites_a_higher_one() -> None:
    standings = filled([evaluation(0, 0.4, level=1), evaluation(0, 0.9)])
    assert standings.best is not None
    assert standings.best.level == 1


def test_of_equal_candidates_the_first_is_the_incumbent() -> None:
    standings = filled([evaluation(3, 0.5), evaluation(1, 0.5)])
    assert standings.best is not None
    assert standings.best.id == 1


def test_empty_standings_have_no_best_and_no_area() -> None:
    standings = filled([])
    assert (standings.best, standings.front, standings.hypervolume(DENSE), len(standings)) == (None, (), 0.0, 0)
