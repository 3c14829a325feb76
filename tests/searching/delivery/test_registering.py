"""Invariants: whoever has MLflow and torch loads and serves a picked network; nobody has to unpickle anything."""

from __future__ import annotations

import json
import os
import re
import shlex
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
from autoprune.cli.edge import run
from autoprune.errors import BackendError, ConfigError
from autoprune.report.observer import NullObserver
from autoprune.searching.delivery.picking import Choice, pick
from autoprune.searching.delivery.registering import Registration
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.search.api import run_search
from autoprune.tasks.detectors import raw_outputs
from tests import masked_folders, voc_folders

LOAD = """
import json, os, sys
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import mlflow, torch
network = mlflow.pytorch.load_model(sys.argv[1])
images = torch.tensor(json.load(open(sys.argv[2]))["inputs"])
print(json.dumps(network(images.repeat(3, 1, 1, 1)).tolist()))
print(json.dumps([name for name in ("autoprune", "toy_problem") if name in sys.modules]))
"""


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


def answered(command, *, server, seconds=240):
    """Returns the answer to a printed curl command as soon as the server gives one."""
    request = asked(command)
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


def asked(command):
    """Returns the request that a curl command makes: not every machine has curl."""
    program, _, header, _, body, address = shlex.split(command)
    assert program == "curl"
    name, _, value = header.partition(": ")
    return urllib.request.Request(
        address, data=Path(body.removeprefix("@")).read_bytes(), headers={name: value}, method="POST"
    )


def steps(shown):
    """Returns the commands that stand below `Next:`."""
    lines = shown.partition("Next:\n")[2].splitlines()
    return [line[2:].partition("   ")[0].strip() for line in lines if line.startswith("  ") and line[2] != " "]


def one(commands, start):
    """Returns the command that begins so."""
    (found,) = [command for command in commands if command.startswith(start)]
    return found


def test_whoever_follows_what_is_printed_gets_from_a_search_to_a_served_model(folder, store, capsys):
    from mlflow import MlflowClient

    network = ["--model", "toy_problem:network", "--data", "toy_problem:sets", "--backend", "serial"]
    assert run(["search", *network, "--candidates", "4", "--finetune-epochs", "0", "--out", "run"]) == 0
    picking = shlex.split(one(steps(capsys.readouterr().out), "autoprune pick").replace("NAME", "toy"))
    assert run(picking[1:]) == 0
    first = capsys.readouterr().out
    assert "version 1 of toy" in first
    assert run([*picking[1:], "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)
    assert entry["mlflow"]["version"] == "2"

    next_steps = steps(first)
    variable, _, address = shlex.split(one(next_steps, "export"))[1].partition("=")
    assert (variable, address) == ("MLFLOW_TRACKING_URI", store)
    client = MlflowClient(store)
    assert client.get_model_version_by_alias("toy", "champion").version == 2
    written = client.get_run(entry["mlflow"]["run_id"])
    assert (
        written.data.tags["mlflow.parentRunId"]
        == json.loads(Path("run/summary.json").read_text())["tracking"]["run_id"]
    )
    assert written.data.metrics["test_accuracy"] == pytest.approx(entry["accuracy"])

    port = str(free_port())
    serve, ask = (one(next_steps, start).replace("5001", port) for start in ("mlflow models serve", "curl"))
    model = re.search(r'"(.*)"', one(next_steps, "mlflow.pytorch.load_model"))[1]
    (folder / "elsewhere").mkdir()
    with subprocess.Popen(
        shlex.split(serve),
        cwd="elsewhere",
        env={**stranger(store), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as server:
        try:
            loaded = subprocess.run(
                [sys.executable, "-c", LOAD, model, str(Path(entry["request"]).resolve())],
                cwd="elsewhere",
                env=stranger(store),
                capture_output=True,
                text=True,
                check=True,
                timeout=300,
            )
            served = answered(ask, server=server)["predictions"]
        finally:
            os.killpg(server.pid, 15)

    images = torch.tensor(json.loads(Path(entry["request"]).read_text())["inputs"])
    with torch.no_grad():
        expected = autoprune.load(entry["directory"])(images)
    outputs, modules = (json.loads(line) for line in loaded.stdout.splitlines())
    assert modules == []
    torch.testing.assert_close(torch.tensor(outputs), expected.repeat(3, 1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(served), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("task", "network", "data", "shape"),
    [
        ("segmentation", masked_folders.Network, "tests.masked_folders:data", (3, 32, 32)),
        ("segmentation", masked_folders.torchvisions, "tests.masked_folders:data", (3, 32, 32)),
        # Of each of 4 x 4 x 4 anchors four numbers of a box, and scores of two classes and the background.
        ("detection", voc_folders.network, "voc:images", (64, 7)),
    ],
)
def test_a_network_of_any_task_is_registered_with_one_tensor_for_an_answer(task, network, data, shape, folder, store):
    if task == "detection":
        pytest.importorskip("pycocotools")
    import mlflow

    voc_folders.write_voc(folder / "images")
    torch.save(network().state_dict(), "weights.pt")
    options = SearchOptions(
        model=f"{network.__module__}:{network.__qualname__}",
        weights=Path("weights.pt"),
        data=data,
        candidates=1,
        finetune_epochs=0.0,
        backend="serial",
        holdout_images=4,
        calibration_images=4,
        out=Path("run"),
    )
    run_search(options, observer=NullObserver())
    entry = picked(Path("run"), 0, register="toy")
    assert entry["mlflow"]["version"] == "1"

    mlflow.set_tracking_uri(store)
    try:
        found = mlflow.pyfunc.load_model("models:/toy@champion")
    finally:
        mlflow.set_tracking_uri(None)
    assert (found.metadata.metadata["task"], found.metadata.metadata["metric"]) == (task, entry["metric"])
    inputs = torch.tensor(json.loads(Path(entry["request"]).read_text())["inputs"])
    answer = torch.from_numpy(found.predict(inputs.numpy()))
    with torch.no_grad():
        outputs = raw_outputs(autoprune.load(entry["directory"]), inputs)
    expected = outputs["out"] if "out" in outputs else torch.cat([outputs[name] for name in sorted(outputs)], 2)
    assert expected.shape[1:] == shape
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)
    assert found.metadata.signature.outputs.inputs[0].shape == (-1, *shape)


def test_a_search_without_mlflow_is_picked_from_but_cannot_be_registered(toy):
    untracked = toy(candidates=2).out
    assert picked(untracked, 1)["mlflow"] is None
    with pytest.raises(ConfigError, match=r"not tracked in MLflow.*--tracking-uri"):
        picked(untracked, 1, register="toy")


def test_a_store_that_refuses_costs_a_warning_or_the_registration_but_never_the_network(toy, monkeypatch):
    def refuse(*_args, **_options):
        raise BackendError("MLflow did not take the network: the disk is on fire.")

    monkeypatch.setattr("autoprune.tracking.registry.log_network", refuse)
    found = toy(candidates=2).out
    uri = "sqlite:///anything.db"
    assert picked(found, 1, tracking_uri=uri)["mlflow"] is None
    assert autoprune.load(found / "picked-1")
    with pytest.raises(BackendError, match=r"on fire.*is saved in 'run/picked-0'"):
        picked(found, 0, tracking_uri=uri, register="toy")
    assert autoprune.load(found / "picked-0")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@b", "'; drop", ".", "x" * 201])
def test_a_name_that_mlflow_could_not_look_up_is_refused_at_once(name):
    with pytest.raises(ConfigError, match="is no name for a model"):
        Registration(register=name)


def test_writing_nothing_to_mlflow_contradicts_registering():
    with pytest.raises(ConfigError, match="leave --register and --tracking-uri out"):
        Registration(no_mlflow=True, register="toy")
