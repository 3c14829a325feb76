"""Invariants: every observer bears every call; lines for programs are JSON, each of them."""

from __future__ import annotations

import io
import json

import pytest

from autoprune.report.live import LiveProgress
from autoprune.report.observer import JsonLinesObserver, NullObserver, Observer
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
    [NullObserver(), JsonLinesObserver(io.StringIO()), LiveProgress(candidates=2)],
    ids=lambda o: type(o).__name__,
)
def test_every_observer_bears_every_call(observer: Observer, capfd: pytest.CaptureFixture[str]) -> None:
    drive(observer)
    assert capfd.readouterr().out == ""


def test_lines_for_programs_are_json_in_the_order_of_events() -> None:
    stream = io.StringIO()
    drive(JsonLinesObserver(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["stage", "progress", "search", "evaluation", "failure", "warning"]
    assert events[2] == {"event": "search", "metric": "accuracy", "resource": "macs"}
    assert events[3] == {
        "event": "evaluation",
        "id": 0,
        "fidelity": "least-squares",
        "finished": True,
        "accuracy": 0.5,
        "score": 0.5,
    }
    assert events[4]["reason"] == "a\nb"
