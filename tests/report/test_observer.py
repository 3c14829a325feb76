"""Invariants: every observer bears every call, and none writes to standard output."""

from __future__ import annotations

import pytest

from autoprune.report.observer import NullObserver, Observer
from autoprune.report.screens.live import LiveProgress
from tests.tracking.tracked_candidates import candidate, evaluation, failure


def drive(observer: Observer) -> None:
    observer.stage("Searching")
    observer.progress(1, 2)
    observer.begins(metric="accuracy", resource="macs")
    observer.asked(candidate(0))
    observer.told(evaluation(0, 0.5), finished=True)
    observer.told(failure(1, "a\nb"), finished=True)
    observer.warning("odd")
    observer.close()
    observer.close()


@pytest.mark.parametrize(
    "observer",
    [NullObserver(), LiveProgress(candidates=2)],
    ids=lambda o: type(o).__name__,
)
def test_every_observer_bears_every_call(observer: Observer, capfd: pytest.CaptureFixture[str]) -> None:
    drive(observer)
    assert capfd.readouterr().out == ""
