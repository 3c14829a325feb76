"""Invariants of the driver between Tune and the study, without either: every candidate is handed out and told once."""

from __future__ import annotations

import pytest
from toy_search import Events, ToyFactory, build_ladder, build_study

from autoprune.backends.evaluating import evaluate
from autoprune.backends.patience import Patience
from autoprune.backends.ray_tune import seams
from autoprune.backends.ray_tune.actors import Broken
from autoprune.backends.ray_tune.seams import Driver
from autoprune.core.seams import frozen_arrays


class FakePool:
    """Evaluators that are always there."""

    def __init__(self, size):
        self.size = size

    def names(self, index):
        return {"worker": f"worker-{index}"}

    def check(self):
        pass

    def lost(self):
        return []

    def back(self):
        return []

    def retire(self, index, *, reason):
        self.retired = [*getattr(self, "retired", []), index]

    def limit(self, level, seconds):
        self.limits = {**getattr(self, "limits", {}), level: seconds}

    def kill(self):
        pass


class Asked(Events):
    """How many candidates have been asked for."""

    @property
    def count(self):
        return sum(event[0] == "asked" for event in self.events)


@pytest.fixture(autouse=True)
def _all_quiet(monkeypatch):
    monkeypatch.setattr(seams, "_SETTLED", 0.0)


def driver_of(study, workers, warn=str):
    return Driver(study, FakePool(workers), patience=Patience(None), should_stop=lambda: False, warn=warn)


def quiet(driver, loops=5):
    """Lets Tune's loop turn while nothing happens."""
    for _ in range(loops):
        assert not driver.stop_all()


def end(driver, trial, config):
    factory = ToyFactory()
    evaluator = factory.build(frozen_arrays(factory.arrays), worker=config["worker"])
    driver.result(trial, evaluate(evaluator, config["candidate"], worker=config["worker"]))
    driver.ended(trial, lost=False)


def one_rung(trackers):
    return build_study(ladder=build_ladder(rungs=1), trackers=trackers)


def test_busy_workers_are_asked_for_ahead_but_not_far():
    asked = Asked()
    driver = driver_of(one_rung([asked]), 2)
    first, second = driver.suggest("a"), driver.suggest("b")
    assert asked.count == 2
    quiet(driver)
    assert asked.count == 4
    end(driver, "a", first)
    end(driver, "b", second)
    assert [driver.suggest(trial)["candidate"].id for trial in "cd"] == [2, 3]
    assert asked.count == 4


def test_one_worker_is_asked_for_when_it_is_free_as_in_the_serial_backend():
    asked = Asked()
    driver = driver_of(one_rung([asked]), 1)
    config = driver.suggest("a")
    quiet(driver)
    assert asked.count == 1
    end(driver, "a", config)
    quiet(driver)
    assert asked.count == 1


def test_a_worker_that_waits_for_the_strategy_is_not_asked_for_ahead():
    asked = Asked()
    driver = driver_of(one_rung([asked]), 2)
    driver.suggest("a")
    quiet(driver)
    assert asked.count == 1


def test_a_candidate_whose_worker_died_comes_before_those_asked_ahead():
    driver = driver_of(one_rung([]), 2)
    first, _second = driver.suggest("a"), driver.suggest("b")
    quiet(driver)
    driver.ended("a", lost=True)
    assert driver.suggest("c")["candidate"] == first["candidate"]


def test_a_candidate_of_a_broken_worker_goes_to_another_however_often_and_is_never_told(monkeypatch):
    monkeypatch.setattr(seams, "_REST", 0.0)
    study, heard = one_rung([]), []
    driver = driver_of(study, 3, heard.append)
    asked, busy, trials = driver.suggest("a"), driver.suggest("b"), iter(range(99))
    broken, trial, holders = Broken("RuntimeError: out of memory"), "a", [asked["worker"]]
    while len(heard) < 2:
        assert not driver.result(trial, broken)
        driver.ended(trial, lost=False)
        quiet(driver, loops=1)
        trial = f"again-{next(trials)}"
        again = driver.suggest(trial)
        if again is not None:
            assert again["candidate"] == asked["candidate"]
            holders.append(again["worker"])
    assert len(holders) == 2 * seams._TRIES
    assert holders[0] != holders[1]
    assert again is None
    end(driver, "b", busy)
    assert driver.suggest("last")["candidate"] == asked["candidate"]
    assert study.failures == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_candidate_is_handed_out_once_and_told_once(workers):
    asked = Asked()
    study = one_rung([asked])
    driver = driver_of(study, workers)
    handed = []
    running = {}
    for turn in range(1000):
        suggestion = driver.suggest(f"trial-{turn}")
        if isinstance(suggestion, dict):
            handed.append(suggestion["candidate"].id)
            running[f"trial-{turn}"] = suggestion
        elif suggestion is not None:
            break
        quiet(driver, loops=1)
        if suggestion is None and running:
            trial = next(iter(running))
            end(driver, trial, running.pop(trial))
    assert study.done
    assert driver.done
    assert sorted(handed) == list(range(study.proposed))
    assert sorted(evaluation.candidate.id for evaluation in study.evaluations) == sorted(handed)


def test_the_board_is_told_how_long_a_rung_may_take_once_one_has_ended():
    pool = FakePool(2)
    driver = Driver(one_rung([]), pool, patience=Patience(None), should_stop=lambda: False, warn=str)
    config = driver.suggest("a")
    assert not hasattr(pool, "limits")
    assert config["timeout"] is None
    end(driver, "a", config)
    assert pool.limits == {0: 600.0}
