from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "torchvision", "ray", "mlflow", "optuna", "pymoo", "sklearn", "scipy", "pandas"]
SCRIPT = """
import json, sys
from autoprune.cli.edge import run
code = run(sys.argv[2:])
print()
print(json.dumps([code, [name for name in json.loads(sys.argv[1]) if name in sys.modules]]))
"""


def started(*arguments, heavy=HEAVY):
    command = [sys.executable, "-c", SCRIPT, json.dumps(heavy), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["--version"], ["search", "--budgett", "1"]])
def test_help_and_usage_errors_import_nothing_heavy_not_even_numpy(arguments):
    _code, imported = started(*arguments, heavy=[*HEAVY, "numpy"])
    assert imported == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "--budget", "50%"],
        ["search", "--workers", "0"],
        ["search", "--strategy", "unifrom"],
        ["search", "--experiment", "nowhere.toml"],
        ["trace", "cifar/resnet20-b", "--weights", "nowhere.pt"],
        ["cost", "cifar/resnet20-b", "--widths", "nowhere.json"],
        ["evaluate", "nowhere"],
        ["ui", "nowhere"],
        ["export", "nowhere", "--format", "onnx"],
    ],
)
def test_a_wrong_value_is_answered_before_anything_heavy_is_imported(arguments):
    assert started(*arguments) == [2, []]


def test_python_m_autoprune_is_the_same_command():
    finished = subprocess.run(
        [sys.executable, "-m", "autoprune", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert finished.stdout.startswith("autoprune ")
