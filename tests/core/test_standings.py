"""Invariants: the best is the dearest of the front; order of arrival, repetition and probes change nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from autoprune.core.cost import Cost
from autoprune.core.front import ParetoFront
from autoprune.core.standings import Standings
from tests.tracking.tracked_candidates import DENSE, evaluation


def filled(evaluations, resource: str = "macs") -> Standings:
    standings = Standings(resource)
    for one in evaluations:
        standings.tell(one)
    return standings


def some(count: int, seed: int = 0) -> list:
    """Evaluations whose scores and costs are often equal, and whose MACs and parameters are ordered differently."""
    rng = random.Random(seed)
    found = [evaluation(number, rng.randint(1, 5) / 8, level=rng.randint(0, 1)) for number in range(count)]
    costs = [Cost(rng.randint(1, 9), rng.randint(1, 9)) for _ in found]
    return [replace(one, candidate=replace(one.candidate, cost=cost)) for one, cost in zip(found, costs, strict=True)]


def over_budget(one):
    return replace(one, candidate=replace(one.candidate, legal=False))


@pytest.mark.parametrize("resource", ["macs", "params"])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_the_front_is_that_of_the_highest_rung(count: int, resource: str) -> None:
    evaluations = some(count)
    top = max(one.candidate.fidelity.level for one in evaluations)
    peers = [one for one in evaluations if one.candidate.fidelity.level == top]
    assert filled(evaluations, resource).front == ParetoFront.of(peers, resource)


@pytest.mark.parametrize("resource", ["macs", "params"])
@pytest.mark.parametrize("seed", range(10))
def test_the_best_is_the_dearest_of_the_front_whatever_it_trades(seed: int, resource: str) -> None:
    standings = filled(some(20, seed), resource)
    assert standings.best == standings.front.evaluations[-1]


def test_what_lies_over_budget_counts_for_nothing() -> None:
    within = some(10)
    probes = [over_budget(evaluation(100 + number, 0.9, level=1)) for number in range(5)]
    standings = filled([*probes, *within])
    assert (standings.best, standings.front) == (filled(within).best, filled(within).front)


def test_order_of_arrival_and_repetition_change_nothing() -> None:
    evaluations = some(30)
    shuffled = random.Random(1).sample(evaluations, 30) + evaluations[:10]
    assert filled(shuffled).front == filled(evaluations).front
    assert filled(shuffled).best == filled(evaluations).best


def test_a_candidate_that_climbed_higher_ranks_above_a_better_score_below() -> None:
    standings = filled([evaluation(0, 0.9), evaluation(1, 0.8), evaluation(1, 0.4, level=1)])
    assert standings.best is not None
    assert standings.best.candidate.id == 1
    assert [one.candidate.id for one in standings.front] == [1]


def test_a_lower_rung_never_overwrites_a_higher_one() -> None:
    standings = filled([evaluation(0, 0.4, level=1), evaluation(0, 0.9)])
    assert standings.best is not None
    assert standings.best.candidate.fidelity.level == 1


def test_of_equal_candidates_the_first_is_the_incumbent() -> None:
    standings = filled([evaluation(3, 0.5), evaluation(1, 0.5)])
    assert standings.best is not None
    assert standings.best.candidate.id == 1


def test_empty_standings_have_no_best_and_no_area() -> None:
    standings = filled([])
    assert (standings.best, standings.peers, standings.front.hypervolume(DENSE)) == (None, (), 0.0)
