"""A real MLflow server that is killed in the middle of a search, and comes back within a minute, or never."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "searching"))

from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.search.api import run_search
from autoprune.tracking.ui import ui_command, ui_environment
from tests.faults.driver import ledger

pytestmark = [pytest.mark.slow, pytest.mark.faults]
CANDIDATES = 5


class Server:
    """`mlflow server` on a port of its own, which can go and come back."""

    def __init__(self, store):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri, self.store = f"http://127.0.0.1:{self.port}", store
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ui_command(self.store, port=self.port),
            env={**os.environ, **ui_environment(self.store)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.2)
        pytest.fail("the server did not come up")

    def kill(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()


class Harm(NullObserver):
    """Kills the server after the second candidate; with the third it is started again, `away` seconds later.

    To start takes it another eight seconds on an idle machine. The tracker tries for seventy.
    """

    def __init__(self, server, away):
        self.server, self.away, self.count, self.warnings = server, away, 0, []

    def told(self, outcome, *, finished):
        self.count += finished
        if finished and self.count == 2:
            self.server.kill()
        if finished and self.count == 3 and self.away is not None:
            time.sleep(self.away)
            self.server.start()

    def warning(self, text):
        self.warnings.append(text)


def search(out, observer, **where):
    options = {"model": "toy_problem:network", "data": "toy_problem:sets", "backend": "serial", "finetune_epochs": 0.0}
    run_search(SearchOptions(candidates=CANDIDATES, out=out, **options, **where), observer=observer)
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize("away", [30.0, None], ids=["for a while", "for good"])
def test_a_search_outlives_its_mlflow_server(tmp_path, store, monkeypatch, away, tally):
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    whole = search(Path("whole"), NullObserver(), no_mlflow=True)
    server = Server(store)
    try:
        watched = Harm(server, away)
        summary = search(Path("run"), watched, tracking_uri=server.uri)
    finally:
        with suppress(ProcessLookupError):
            server.kill()
    assert ledger(Path("run")) == ledger(Path("whole"))
    assert summary["incumbent"] == whole["incumbent"]
    [experiment] = MlflowClient(store).search_experiments(filter_string="name LIKE 'autoprune%'")
    found = MlflowClient(store).search_runs([experiment.experiment_id], max_results=100)
    roles = [run.data.tags["autoprune.role"] for run in found]
    written = {run.data.tags["autoprune.candidate"] for run in found if "autoprune.candidate" in run.data.tags}
    if away is None:
        assert any("could not be written to MLflow" in text for text in watched.warnings)
        assert len(written) < CANDIDATES
    else:
        assert not any("MLflow" in text for text in watched.warnings), watched.warnings
        assert written == {str(number) for number in range(CANDIDATES)}
        assert roles.count("candidate") == CANDIDATES
        assert {run.info.status for run in found} == {"FINISHED"}
    how = "back within a minute" if away else "gone for good"
    tally(f"MLflow server killed, {how}", "the search ends the same" + (", all is written later" if away else ""))
