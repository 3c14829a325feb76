"""What every writer to MLflow shares: names and texts that it may have, and one line on what it did not take."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from autoprune.tracking.background import BackgroundWriter
from autoprune.tracking.session import Session, ended


class Calls:
    """Stands for MLflow and its client: what was called with what."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[tuple, dict]] = {}
        self.entities = SimpleNamespace(
            Param=lambda *it: ("param", *it), RunTag=lambda *it: ("tag", *it), Metric=lambda *it: ("metric", *it)
        )
        self.runs: list[str] = []

    def MlflowClient(self, *, tracking_uri):  # noqa: N802 - as MLflow spells it
        self.uri = tracking_uri
        return self

    def __getattr__(self, name):
        def call(*args, **named):
            self.calls[name] = (args, named)
            return self.runs if name == "search_runs" else SimpleNamespace(info=SimpleNamespace(run_id=7))

        return call


@pytest.fixture
def mlflow():
    return Calls()


@pytest.fixture
def session(mlflow):
    return Session(mlflow, "sqlite:///runs.db")


def test_keys_are_legal_and_secrets_masked_whoever_writes(session, mlflow):
    metrics = session.metrics({"a*b": 1}, at=5, step=2)
    session.write("run", metrics=metrics, params={"store?": "http://me:secret@host"}, tags={"why": "x://me:pw@h"})
    (run,), named = mlflow.calls["log_batch"]
    assert (run, mlflow.uri) == ("run", "sqlite:///runs.db")
    assert named["metrics"] == [("metric", "a_b", 1.0, 5, 2)]
    assert named["params"] == [("param", "store_", "http://***:***@host")]
    assert named["tags"] == [("tag", "why", "x://me:***@h")]


def test_a_run_is_made_with_its_role_and_found_again_by_it(session, mlflow):
    assert session.make("0", "name", role="search", tags={"autoprune.run": "u", "note": "http://t@h"}) == "7"
    _, named = mlflow.calls["create_run"]
    assert named["tags"].items() >= {"autoprune.role": "search", "autoprune.run": "u", "note": "http://***@h"}.items()
    assert session.find("0", "u", role="search") is None
    mlflow.runs.append("found")
    assert session.find("0", "u", role="search") == "found"
    assert "'u'" in mlflow.calls["search_runs"][0][1]


def test_what_was_not_written_is_one_line_without_secrets():
    gate = threading.Event()
    writer = BackgroundWriter(lambda: gate.wait(30), name="stuck")
    writer.submit(lambda: None)
    complaint = ended(writer, lambda: None, uri="http://me:secret@host", what="training", seconds=0.05)
    gate.set()
    assert complaint.startswith("2 entries of this training could not be written to MLflow at http://***:***@host: ")
    assert complaint.endswith("it did not answer in time. The run folder has all of them.")
    done = BackgroundWriter(lambda: None, name="done")
    assert ended(done, lambda: None, uri="sqlite:///runs.db", what="search") is None
