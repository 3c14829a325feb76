"""Invariants: the progress of a search ends where the search did, ties and probes over budget included."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoprune.core.structure import Structure
from autoprune.report.records.progress import progress_of, strategies_of
from tests.study.toy_search import ScriptedStrategy, build_ladder, build_space, build_study, run_by_hand
from tests.tracking.tracked_candidates import DENSE, evaluation


def probing_study(budget: str):
    """A study whose strategy probes beyond the budget, where scores are better, and whose scores are often equal."""
    space = build_space(budget)
    probes = [Structure((8, 16, width)) for width in (28, 30, 32)]
    within = [Structure((width, 6, 32 - width)) for width in (5, 3, 6, 4)]
    study = build_study(space=space, strategy=ScriptedStrategy([*probes, *within]), ladder=build_ladder(1))
    run_by_hand(study, score=lambda candidate: 0.5 if space.is_legal(candidate.structure) else 0.9)
    return study


@pytest.mark.parametrize("budget", ["50%flops", "10..50%flops", "10..50%params"])
def test_the_last_step_names_the_incumbent_and_the_front_of_the_study(budget: str) -> None:
    study = probing_study(budget)
    dense, resource = study.space.cost_model.dense, study.space.front_resource
    last = progress_of(study.evaluations, dense=dense, resource=resource)[-1]
    assert last["incumbent"] == study.incumbent.candidate.id
    assert (last["front"], last["hypervolume"]) == (len(study.front), study.front.hypervolume(dense))
    assert last["candidates"] == 5


def test_what_lies_over_budget_makes_no_step() -> None:
    probe = evaluation(0, 0.9)
    probe = replace(probe, candidate=replace(probe.candidate, legal=False))
    assert progress_of([probe], dense=DENSE) == []
    [step] = progress_of([probe, evaluation(1, 0.5)], dense=DENSE)
    assert (step["incumbent"], step["candidates"]) == (1, 1)


def test_the_best_of_a_strategy_lies_within_budget() -> None:
    study = probing_study("50%flops")
    events = [
        {"event": "asked", "id": one.candidate.id, "proposed_by": one.candidate.proposed_by}
        for one in study.evaluations
    ]
    rows = [
        {"proposed_by": one.candidate.proposed_by, "level": 0, "front": False, "seconds": 1.0}
        for one in study.evaluations
    ]
    [_, toy] = sorted(strategies_of(events, study.evaluations, rows=rows, steps=[]), key=lambda one: one["proposed"])
    assert (toy["name"], toy["proposed"], toy["best_score"]) == ("toy", 7, 0.5)
