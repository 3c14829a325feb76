"""Every server that we start listens on 127.0.0.1, or asks for a secret where that cannot be had."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "autoprune"
#: What would let a server listen to everybody.
EVERYWHERE = ("0.0.0.0", "::", "[::]")


def constants():
    """Yields (file, constant) of every text in the program that is no docstring of a module."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.value


def test_nothing_in_the_program_names_the_address_of_everybody():
    assert [(path, text) for path, text in constants() if text in EVERYWHERE] == []


def test_the_page_of_mlflow_is_bound_to_this_machine(monkeypatch, tmp_path):
    from autoprune.cli import commands

    started = []
    monkeypatch.setattr(commands, "_require_free", lambda port: None)
    monkeypatch.setattr(commands, "serve", lambda command, _: started.append(command))
    (tmp_path / "mlflow.db").touch()
    assert commands.ui(tmp_path, port=5055, tracking_uri=None) == 0
    (command,) = started
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5055"


PROGRAM = """
import os
from autoprune.backends.ray_tune import cluster
seen = []
def init(**options):
    seen.append((bool(os.environ.get("RAY_AUTH_TOKEN")), options["include_dashboard"]))
cluster.ray.init, cluster.ray.shutdown = init, lambda: None
with cluster.cluster(None, 1, 0):
    print(*seen[0])
"""


@pytest.mark.slow
def test_a_ray_that_we_start_asks_for_a_token_and_serves_no_page():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT.parent), *sys.path])
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "False"], done.stderr
