"""Invariants: one child a finished candidate, resumed or not; the search never fails or waits for the store."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from autoprune.core.candidate import Failure
from autoprune.tracking.mlflow_tracker import MlflowTracker
from autoprune.tracking.scribe import Scribe
from autoprune.tracking.uris import default_store
from tests.tracking.tracked_candidates import DENSE, GROUPS, candidate, evaluation, failure


def tracker(uri: str, **options) -> MlflowTracker:
    given = {"params": {"seed": 0}, "run_name": "a search", **options}
    return MlflowTracker(
        tracking_uri=uri, experiment="autoprune", run_uuid="abc", dense_cost=DENSE, groups=GROUPS, **given
    )


def runs(uri: str, role: str) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("autoprune")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`autoprune.role` = '{role}'"))


def test_a_search_becomes_a_parent_with_a_child_a_finished_candidate(
    store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    subject = tracker(store)
    subject.asked(candidate(0))
    subject.told(evaluation(0, 0.5, seconds=1.0), finished=False)
    subject.told(evaluation(0, 0.6, level=1, seconds=2.0), finished=True)
    subject.told(failure(1), finished=True)
    subject.told(evaluation(2, 0.4, widths=(4, 8, 16), by="pca"), finished=True)
    page = tmp_path / "front.html"
    page.write_text("<p>front</p>")
    (tmp_path / "incumbent").mkdir()
    (tmp_path / "incumbent" / "structure.json").write_text("{}")
    summary = {"dense": {"accuracy": 0.9, "macs": 1}, "incumbent": {"accuracy": None, "id": 0, "widths": {}}}
    files = {"front.html": page, "incumbent": tmp_path / "incumbent", "gone": tmp_path / "gone"}
    assert subject.close(summary, files, {0, 2}) is None

    (parent,) = runs(store, "search")
    children = {int(run.data.tags["autoprune.candidate"]): run for run in runs(store, "candidate")}
    assert sorted(children) == [0, 1, 2]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["dense.test_accuracy"] == 0.9
    assert parent.data.metrics["incumbent.holdout_accuracy"] == 0.6
    assert parent.data.metrics["failures"] == 1
    first = children[0].data
    assert first.metrics["accuracy"] == 0.6
    assert first.metrics["level"] == 1
    assert first.metrics["seconds"] == 3.0
    assert first.metrics["retained_flops"] == pytest.approx(0.5)
    assert first.params["ratio.layer1.0.conv1"] == "0.5"
    assert {"ratio.conv1", "ratio.odd_name_", "widths"} <= first.params.keys()
    assert first.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (first.tags["strategy"], first.tags["fidelity"], first.tags["front"]) == ("pso", "sequential", "true")
    assert children[1].info.status == "FAILED"
    assert children[1].data.tags["autoprune.failure"] == "out of memory"
    assert children[2].data.tags["front"] == "true"
    artifacts = tmp_path / "mlartifacts" / parent.info.run_id / "artifacts"
    assert (artifacts / "front.html").is_file()
    assert (artifacts / "incumbent" / "structure.json").is_file()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert subject.close() is None


def test_a_resumed_search_continues_its_parent_and_repeats_no_child(store: str) -> None:
    first = tracker(store)
    for number in range(3):
        first.told(evaluation(number, 0.1 * (number + 1)), finished=True)
    assert first.close(interrupted=True) is None
    assert runs(store, "search")[0].info.status == "KILLED"

    second = tracker(store, params={"seed": 1, "late": "x"}, run_name="another name")
    for number in (1, 2, 3):
        second.told(evaluation(number, 0.1 * (number + 1)), finished=True)
    assert second.close() is None

    (parent,) = runs(store, "search")
    children = runs(store, "candidate")
    assert sorted(int(run.data.tags["autoprune.candidate"]) for run in children) == [0, 1, 2, 3]
    assert [run.data.tags["autoprune.candidate"] for run in children if run.data.tags["front"] == "true"] == ["3"]
    assert parent.data.params == {"seed": "0", "late": "x"}
    assert parent.data.metrics["candidates"] == 4


@pytest.mark.parametrize("resumed", ["at once", "before it climbs", "after it climbed"])
def test_a_candidate_that_is_promoted_late_shows_its_highest_rung(store: str, resumed: str) -> None:
    low = [evaluation(0, 0.5), evaluation(1, 0.4), evaluation(2, 0.3)]
    high = [evaluation(0, 0.7, level=1, seconds=2.0), Failure(candidate(1, level=1), reason="out of memory")]
    parts = {"at once": [low + high], "before it climbs": [low, low + high], "after it climbed": [low + high] * 2}
    for outcomes in parts[resumed]:
        subject = tracker(store)
        for outcome in outcomes:
            subject.told(outcome, finished=True)
        assert subject.close() is None

    children = {int(run.data.tags["autoprune.candidate"]): run for run in runs(store, "candidate")}
    assert sorted(children) == [0, 1, 2]
    shown = {number: (run.data.tags["fidelity"], run.info.status) for number, run in children.items()}
    assert shown == {0: ("sequential", "FINISHED"), 1: ("sequential", "FAILED"), 2: ("least-squares", "FINISHED")}
    climbed, failed = children[0].data, children[1].data
    assert (climbed.metrics["accuracy"], climbed.metrics["level"], climbed.metrics["seconds"]) == (0.7, 1, 3.0)
    assert [number for number, run in children.items() if run.data.tags["front"] == "true"] == [0]
    assert (failed.metrics["accuracy"], failed.tags["autoprune.failure"]) == (0.4, "out of memory")
    (parent,) = runs(store, "search")
    assert (parent.data.metrics["candidates"], parent.data.metrics["failures"]) == (3, 1)


def test_a_late_promotion_that_ctrl_c_cuts_short_shows_the_rung_that_ended(store: str) -> None:
    from mlflow import MlflowClient

    subject = tracker(store)
    subject.told(evaluation(0, 0.5), finished=True)
    subject.told(evaluation(0, 0.7, level=1), finished=False)
    assert subject.close(interrupted=True) is None
    (child,) = runs(store, "candidate")
    assert child.data.metrics["accuracy"] == 0.7
    history = MlflowClient(store).get_metric_history(child.info.run_id, "accuracy")
    assert [(one.step, one.value) for one in history] == [(0, 0.5), (1, 0.7)]


def test_a_past_longer_than_the_queue_is_heard_whole(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    heard: list[int] = []
    monkeypatch.setattr(Scribe, "open", lambda self: gate.wait(30))
    monkeypatch.setattr(Scribe, "write", lambda self, told: heard.append(told.outcome.candidate.id))
    monkeypatch.setattr(Scribe, "end", lambda self, ending: None)
    subject = tracker(store)
    with subject.hearing_past():
        for number in range(3001):
            subject.told(evaluation(number), finished=True)
    subject.told(evaluation(3001), finished=True)
    gate.set()
    assert subject.close() is None
    assert heard == list(range(3002))


def test_the_experiment_carries_the_charts_of_the_search(store: str) -> None:
    from mlflow import MlflowClient

    subject = tracker(store)
    location = subject.location(seconds=30)
    assert location is not None
    assert subject.close() is None
    tags = MlflowClient(store).get_experiment(location.experiment_id).tags
    if location.view_id is not None:
        assert location.run_id in tags[f"mlflow.sharedViewState.{location.view_id}"]
        assert location.view_id in location.view_link("http://localhost:1234")
    assert "hold-out accuracy against FLOPs" in tags["mlflow.note.content"]


def test_an_unusable_store_costs_a_warning_and_no_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder")
    subject = tracker(default_store(blocked))
    for number in range(3):
        subject.told(evaluation(number), finished=True)
    warning = subject.close(seconds=60)
    assert warning is not None
    assert warning.startswith("4 entries of this search could not be written to MLflow at sqlite:///")
    assert "\n" not in warning
    assert subject.location() is None
    assert capfd.readouterr().out == ""


def test_a_server_that_takes_its_time_costs_the_search_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    asked = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            time.sleep(2.0)
            self.send_error(503)

        do_POST = do_GET  # noqa: N815 - the name that the base class looks for

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        subject = tracker(f"http://127.0.0.1:{server.server_address[1]}")
        assert asked.wait(60)
        # The first request is still under way: whatever waited for it would not come this far before it ends.
        for number in range(500):
            subject.told(evaluation(number), finished=True)
        assert not subject._writer.ready
        complaint = subject.close(seconds=0.5)
        server.shutdown()
    assert complaint is not None
    assert "could not be written to MLflow" in complaint
    assert "The run folder has all of them" in complaint
