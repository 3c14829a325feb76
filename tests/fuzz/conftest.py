"""Fuzzing through the command line, in this process, with what takes long replaced or kept between calls."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "searching"))

#: Cases of each test; AUTOPRUNE_FUZZ multiplies them: 10 makes thousands in all.
CASES = int(float(os.environ.get("AUTOPRUNE_FUZZ", "1")) * 30)

settings.register_profile(
    "autoprune",
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


# Here and not in a fixture: `@given` reads the settings when the test modules are imported.
settings.load_profile("autoprune")


@pytest.fixture(scope="session")
def _command():
    """Returns typer's parser, built once: building it takes longer than all that is tested here."""
    import typer

    return functools.cache(typer.main.get_command)


@pytest.fixture
def folder(tmp_path, monkeypatch, _command):
    """Makes an empty folder the working directory and keeps logs, progress and environment out of the way."""
    monkeypatch.chdir(tmp_path)
    for name in ("AUTOPRUNE_DATA_ROOT", "AUTOPRUNE_WEIGHTS_ROOT", "AUTOPRUNE_DEBUG", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("autoprune.cli.quiet.hush_libraries", lambda: None)
    monkeypatch.setattr("typer.main.get_command", _command)
    return tmp_path


@pytest.fixture
def sound(folder, capsys):
    """Returns a function that runs a command line and says that it ended as it may: with exit code 0 or 2."""
    from autoprune.cli.edge import run

    def check(*arguments):
        code = run([str(argument) for argument in arguments])
        error = capsys.readouterr().err
        assert code in (0, 2), (arguments, code, error[-2000:])
        assert "internal error" not in error, (arguments, error[-2000:])
        assert "Traceback" not in error, (arguments, error[-2000:])
        if code == 2:
            assert "autoprune: error: " in error, (arguments, error[-2000:])
        return code

    return check
