"""Searches of the toy problem, in an empty folder, without Ray and MLflow."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(autouse=True)
def _one_core(monkeypatch):
    """Threads that wait for each other on a busy machine make a small search ten times slower."""
    monkeypatch.setattr("autoprune.searching.search.preparation.usable_cores", lambda: 1)
    monkeypatch.setattr("autoprune.searching.search.workers.usable_cores", lambda: 1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes an empty folder the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("AUTOPRUNE_DATA_ROOT", "AUTOPRUNE_WEIGHTS_ROOT", "AUTOPRUNE_DEBUG", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def toy(folder):
    """Returns a function that runs a search of the toy problem by names."""
    from autoprune.report.observer import NullObserver
    from autoprune.searching.inputs.options import SearchOptions
    from autoprune.searching.search.api import run_search

    def run(out="run", *, observer=None, **options):
        usual = {
            "model": "toy_problem:network",
            "data": "toy_problem:sets",
            "candidates": 6,
            "finetune_epochs": 0.0,
            "backend": "serial",
            "no_mlflow": True,
        }
        return run_search(SearchOptions(**{**usual, "out": Path(out), **options}), observer=observer or NullObserver())

    return run


def events(out):
    """Returns the lines of a ledger without its header and without what differs between equal searches."""
    lines = [json.loads(line) for line in (Path(out) / "ledger.jsonl").read_text().splitlines()]
    unlike = ("seconds", "check", "worker")
    return [{key: value for key, value in line.items() if key not in unlike} for line in lines[1:]]


@pytest.fixture(name="events")
def _events():
    return events
