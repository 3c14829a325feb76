"""Whole commands on a pretended GPU: nothing stays behind on the CPU, and the numbers are the CPU's.

All run in one process of their own, for a pretended GPU marks its process for good.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.voc_folders import write_voc

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOY = ["--model", "toy_problem:network", "--data", "toy_problem:sets"]
BOXES = ["--model", "tests.voc_folders:network", "--data", "voc:boxes"]
PIXELS = ["--model", "tests.masked_folders:Network", "--data", "tests.masked_folders:data"]
SEARCH = ["--backend", "serial", "--no-mlflow", "--candidates", "2", "--out", "OUT"]
METHODS = ("abc", "acp", "ascp", "ccm", "eprune", "fpgm", "hrank", "pca", "psap", "reconstruction", "taylor", "uniform")

COMMANDS = {
    "digits": ["search", "--scope", "coupled", "--finetune-epochs", "0.2", *SEARCH],
    "heads": ["search", "--model", "digits/vit", "--finetune-epochs", "0", "--calibration-images", "128", *SEARCH],
    "pixels": ["search", *PIXELS, *SEARCH],
    "boxes": ["search", *BOXES, *SEARCH],
    "heuristics": ["search", *TOY, "--strategy", "cluster", "--finetune-epochs", "0", *SEARCH],
    "workers": [
        *("search", "--model", "tests.pretend.demanding:network", "--data", "toy_problem:sets", "--no-mlflow"),
        *("--workers", "1", "--candidates", "3", "--finetune-epochs", "0", "--out", "OUT"),
    ],
    "evaluated": ["evaluate", "DEVICE/digits"],
    "finetuned": ["finetune", "DEVICE/digits", "--epochs", "0.2", "--no-mlflow", "--out", "OUT"],
    "trained": ["train", *TOY, "--epochs", "2", "--regulariser", "ccm", "--no-mlflow", "--out", "OUT"],
    "orthogonal": ["train", *TOY, "--epochs", "1", "--regulariser", "orthoreg", "--no-mlflow", "--out", "OUT"],
    "proxies": ["check-proxy", "--structures", "5", "--epochs", "0.1", "--backend", "serial", "--out", "OUT"],
    "swarm": ["prune", "--method", "acp", "--option", "swarm=true", "--option", "cycles=1", *TOY, "--out", "OUT"],
    **{name: ["prune", "--method", name, "--epochs", "1", *TOY, "--out", "OUT"] for name in METHODS},
}


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """Runs all commands; returns {device: {name: exit code}} and what was said."""
    folder = tmp_path_factory.mktemp("pretended")
    write_voc(folder / "boxes", train=24)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "searching"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.pretend.run", "codes.json"],
        input=json.dumps(COMMANDS),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, json.loads((folder / "codes.json").read_text()), done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_well_on_both(codes, name):
    _, found, said = codes
    assert {device: found[device][name] for device in found} == {"cpu": 0, "pretend": 0}, _about(said, name)


def _about(said, name):
    """Returns what the commands of this name said."""
    return "".join(part[-1500:] for part in said.split("--- ") if part.partition("\n")[0].endswith(f": {name}"))


@pytest.mark.parametrize("name", [name for name, (command, *_) in COMMANDS.items() if command in ("search", "prune")])
def test_widths_and_accuracies_are_those_of_the_cpu(codes, name):
    folder, _, _ = codes
    ours, theirs = (json.loads((folder / device / name / "summary.json").read_text()) for device in ("cpu", "pretend"))
    kinds = ("dense", "uniform", "incumbent") if COMMANDS[name][0] == "search" else ("dense", "incumbent")
    for kind in kinds:
        assert ours[kind]["accuracy"] == theirs[kind]["accuracy"]
    for kind in kinds[1:]:
        for key in ("widths", "accuracy_before_finetune", "holdout_accuracy"):
            assert ours[kind][key] == theirs[kind][key], (kind, key)


def test_a_worker_of_ray_computes_on_the_gpu_that_it_is_given(codes):
    folder, _, _ = codes
    for device in ("cpu", "pretend"):
        # Its network refuses to compute elsewhere.
        summary = json.loads((folder / device / "workers" / "summary.json").read_text())
        assert (summary["workers"], summary["candidates"], summary["failures"]) == (1, 3, 0)


@pytest.mark.parametrize(
    "file",
    [
        "digits/incumbent/model.safetensors",
        "finetuned/model.safetensors",
        "trained/weights.safetensors",
        "orthogonal/weights.safetensors",
        "boxes/incumbent/model.safetensors",
    ],
)
def test_trained_weights_are_those_of_the_cpu(codes, file):
    folder, _, _ = codes
    ours, theirs = (load_file(folder / device / file) for device in ("cpu", "pretend"))
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=1e-3, err_msg=name)
