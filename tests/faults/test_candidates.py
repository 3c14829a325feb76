"""Candidates that fail: each costs itself and nothing more, and a search in which all of them do ends early."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

from toy_search import build_space, build_study

from autoprune.backends import SerialBackend
from autoprune.backends.evaluating import evaluate
from autoprune.core.candidate import Evaluation, Failure
from autoprune.errors import DivergenceError
from autoprune.study.study import HOPELESS, HOPELESS_ANYHOW


class Evaluator:
    """Evaluates what `fails` does not raise for, or answers what it returns."""

    arrays: ClassVar[dict] = {}

    def __init__(self, fails):
        self._fails = fails

    def build(self, arrays, *, worker):
        return self

    def evaluate(self, candidate):
        answer = self._fails(candidate)
        return Evaluation(candidate, 0.5, 0.5) if answer is None else answer


def search(fails, candidates=100):
    study = build_study(space=build_space(), candidates=candidates)
    report = SerialBackend().run(study, Evaluator(fails), should_stop=lambda: False)
    return study, report


def raising(error):
    def fails(candidate):
        raise error(candidate.id)

    return fails


ERRORS = (
    RuntimeError("shapes do not match"),
    MemoryError(),
    DivergenceError("the loss is nan"),
    RecursionError("too deep"),
    KeyError("layer"),
    SystemExit(3),
    AssertionError(),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_an_evaluation_raises_costs_one_candidate(error, tally):
    def fails(candidate):
        if candidate.id == 4:
            raise error

    study, report = search(fails, candidates=20)
    assert not report.interrupted
    assert study.proposed == 20
    assert [failure.candidate.id for failure in study.failures] == [4]
    assert type(error).__name__ in study.failures[0].reason
    tally("an evaluation raises", "one failed candidate")


@pytest.mark.parametrize("answer", [5, float("nan"), "text"])
def test_an_answer_that_is_none_costs_one_candidate(answer):
    study, _ = search(lambda candidate: answer if candidate.id == 2 else None, candidates=10)
    assert [failure.candidate.id for failure in study.failures] == [2]


def test_a_score_that_is_not_finite_costs_one_candidate():
    def fails(candidate):
        return Evaluation(candidate, float("nan"), 0.5) if candidate.id == 3 else None

    study, _ = search(fails, candidates=10)
    assert [failure.candidate.id for failure in study.failures] == [3]
    assert "does not lie in [0, 1]" in study.failures[0].reason


def test_a_search_in_which_all_fail_alike_stops_early_and_says_why(tally):
    study, report = search(raising(lambda id: RuntimeError(f"out of memory: tried {20 + id} MiB")))
    assert study.proposed == HOPELESS
    assert not report.interrupted
    assert study.stopped_because == (
        f"All of the first {HOPELESS} candidates failed for the same reason: {study.failures[0].reason}"
    )
    tally("every candidate fails", "stops after 20 and says why", times=20)


def test_a_search_in_which_all_fail_in_their_own_ways_stops_too(tally):
    study, _ = search(raising(lambda id: RuntimeError("reason " + "x" * (id + 1))))
    assert study.proposed == HOPELESS_ANYHOW
    assert "failed for different reasons, the first: RuntimeError: reason x" in study.stopped_because
    tally("every candidate fails", "stops after 60 and says why", times=60)


def test_a_training_whose_loss_is_nan_is_a_failure(tally):
    from autoprune.core.candidate import Merge
    from autoprune.core.seams import frozen_arrays
    from autoprune.evaluation import evaluator
    from autoprune.training.trainer import train
    from tests.evaluation.subjects import candidate, factory

    def hot(model, images, indices, recipe, **others):
        return train(model, images, indices, replace(recipe, learning_rate=1e30, warmup_epochs=0.0), **others)

    _, made = factory()
    fidelity = evaluator.fidelity_for(Merge.SLICE, level=0, calibration=16, holdout=16, epochs=2.0)
    made = replace(made, lazy_training=None, lazy_indices=None)
    built = made.build(frozen_arrays(made.arrays), worker="main")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "train", hot)
        outcome = evaluate(built, candidate(made, 0.5, fidelity), worker="main").outcome
    assert isinstance(outcome, Failure)
    assert "finite" in outcome.reason or "nan" in outcome.reason.lower() or "diverge" in outcome.reason.lower()
    assert np.isfinite(outcome.seconds)
    tally("NaN loss", "one failed candidate")
