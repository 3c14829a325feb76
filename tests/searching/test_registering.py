"""Invariants: whoever has MLflow and torch loads and serves a picked network; nobody has to unpickle anything."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

import autoprune
from autoprune.errors import BackendError, ConfigError
from autoprune.report.observer import NullObserver
from autoprune.searching.picking import Choice, pick
from autoprune.searching.registering import Registration

LOAD = """
import json, os, sys
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import mlflow, torch
network = mlflow.pytorch.load_model(sys.argv[1])
images = torch.tensor(json.load(open(sys.argv[2]))["inputs"])
print(json.dumps(network(images.repeat(3, 1, 1, 1)).tolist()))
print(json.dumps([name for name in ("autoprune", "toy_problem") if name in sys.modules]))
"""


@pytest.fixture
def tracked(toy, store):
    """Returns the folder of a search that MLflow knows."""
    return toy(no_mlflow=False, tracking_uri=store).out


def picked(run, number, **registration):
    wanted = Registration(**registration)
    return pick(run, Choice(id=number), observer=NullObserver(), registration=wanted)


def stranger(store):
    """Returns the environment of a process that has never heard of this checkout."""
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**own, "MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answered(url, body, *, server, seconds=240):
    """Returns the answer to a request as soon as the server gives one."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not answer:\n{server.stdout.read() if server.poll() is not None else ''}")
    return None


def test_a_registered_network_is_loaded_and_served_by_processes_that_know_nothing_of_autoprune(
    tracked, store, tmp_path_factory
):
    from mlflow import MlflowClient

    first, second = picked(tracked, 1, register="toy"), picked(tracked, 2, register="toy")
    assert (first["mlflow"]["version"], second["mlflow"]["version"]) == ("1", "2")
    model, client = second["mlflow"]["model_uri"], MlflowClient(store)
    assert model == "models:/toy@champion"
    assert client.get_model_version_by_alias("toy", "champion").version == 2
    run = client.get_run(second["mlflow"]["run_id"])
    assert (
        run.data.tags["mlflow.parentRunId"] == json.loads((tracked / "summary.json").read_text())["tracking"]["run_id"]
    )
    assert run.data.metrics["test_accuracy"] == pytest.approx(second["accuracy"])
    assert run.info.status == "FINISHED"

    elsewhere, port = tmp_path_factory.mktemp("elsewhere"), free_port()
    body = Path(second["request"]).read_bytes()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    with subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=elsewhere,
        env={**stranger(store), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as server:
        try:
            loaded = subprocess.run(
                [sys.executable, "-c", LOAD, model, str(Path(second["request"]).resolve())],
                cwd=elsewhere,
                env=stranger(store),
                capture_output=True,
                text=True,
                check=True,
                timeout=300,
            )
            served = answered(f"http://127.0.0.1:{port}/invocations", body, server=server)["predictions"]
        finally:
            os.killpg(server.pid, 15)

    with torch.no_grad():
        expected = autoprune.load(second["directory"])(torch.tensor(json.loads(body)["inputs"]))
    outputs, modules = (json.loads(line) for line in loaded.stdout.splitlines())
    assert modules == []
    torch.testing.assert_close(torch.tensor(outputs), expected.repeat(3, 1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(served), expected, atol=1e-4, rtol=1e-4)


def test_a_search_without_mlflow_is_picked_from_but_cannot_be_registered(toy):
    run = toy(candidates=2).out
    assert picked(run, 1)["mlflow"] is None
    with pytest.raises(ConfigError, match=r"not tracked in MLflow.*--tracking-uri"):
        picked(run, 1, register="toy")


def test_a_store_that_refuses_costs_a_warning_or_the_registration_but_never_the_network(toy, monkeypatch):
    def refuse(*_args, **_options):
        raise BackendError("MLflow did not take the network: the disk is on fire.")

    monkeypatch.setattr("autoprune.tracking.registry.log_network", refuse)
    run = toy(candidates=2).out
    uri = "sqlite:///anything.db"
    assert picked(run, 1, tracking_uri=uri)["mlflow"] is None
    assert autoprune.load(run / "picked-1")
    with pytest.raises(BackendError, match=r"on fire.*is saved in 'run/picked-0'"):
        picked(run, 0, tracking_uri=uri, register="toy")
    assert autoprune.load(run / "picked-0")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@b", "'; drop", ".", "x" * 201])
def test_a_name_that_mlflow_could_not_look_up_is_refused_at_once(name):
    with pytest.raises(ConfigError, match="is no name for a model"):
        Registration(register=name)


def test_writing_nothing_to_mlflow_contradicts_registering():
    with pytest.raises(ConfigError, match="leave --register and --tracking-uri out"):
        Registration(no_mlflow=True, register="toy")
