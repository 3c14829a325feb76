"""How long an evaluation may take: by what was asked, or by what the others took."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_search import build_ladder, build_study

from autoprune.backends.evaluating import Timed
from autoprune.backends.patience import LEAST_SECONDS, TIMES, Patience
from autoprune.core.candidate import Evaluation, Failure


def took(seconds, *, level=0, failed=False, reused=False):
    """Returns an outcome that took so many seconds."""
    study = build_study(ladder=build_ladder(rungs=3))
    candidate = study.ask()
    candidate = study.candidate_from(candidate.id, candidate.structure, level=level, proposed_by="toy")
    outcome = Failure(candidate, "diverged") if failed else Evaluation(candidate, 0.5, 0.5, reused=reused)
    return Timed(outcome, 100.0, 100.0 + seconds)


def test_a_limit_that_was_asked_for_holds_on_every_rung_whatever_is_heard():
    patience = Patience(7.0)
    assert not patience.heard(took(100.0))
    assert {patience.limit(level) for level in range(3)} == {7.0}


def test_nothing_is_known_of_a_rung_that_nobody_has_finished():
    patience = Patience(None)
    assert patience.heard(took(1.0, level=0))
    assert patience.limit(0) == LEAST_SECONDS
    assert patience.limit(1) is None


@pytest.mark.parametrize("outcome", [took(9e9, failed=True), took(9e9, reused=True)])
def test_failures_and_answers_that_were_known_say_nothing(outcome):
    patience = Patience(None)
    assert not patience.heard(outcome)
    assert patience.limit(0) is None


def test_a_limit_is_never_below_some_minutes_nor_below_a_multiple_of_the_slowest_of_its_rung():
    patience, slowest = Patience(None), 0.0
    for seconds in (1.0, 40.0, 3_000.0, 20.0):
        slowest = max(slowest, seconds)
        patience.heard(took(seconds))
        assert patience.limit(0) == max(LEAST_SECONDS, TIMES * slowest)
    # A finetune that takes an hour lets others take most of a day.
    patience.heard(took(3_600.0, level=2))
    assert patience.limit(2) == 72_000.0


def test_whoever_hears_is_told_only_of_limits_that_are_others_now():
    patience = Patience(None)
    assert [patience.heard(took(seconds)) for seconds in (1.0, 2.0, 29.0, 31.0, 30.0, 32.0)] == [
        *(True, False, False),
        *(True, False, True),
    ]


def test_one_that_was_given_up_doubles_a_limit_that_nobody_asked_for():
    patience = Patience(None)
    patience.heard(took(1.0))
    for limit in (LEAST_SECONDS, 2 * LEAST_SECONDS, 4 * LEAST_SECONDS):
        assert patience.limit(0) == limit
        assert patience.heard(replace(took(limit, failed=True), overdue=True))
    asked = Patience(7.0)
    assert not asked.heard(replace(took(7.0, failed=True), overdue=True))
    assert asked.limit(0) == 7.0
