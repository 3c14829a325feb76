"""A server in the foreground says nothing unless it fails."""

from __future__ import annotations

import signal
import sys
import threading

import pytest

from autoprune.cli.serving import serve
from autoprune.errors import RunError

#: Says that it is up, then waits for what ends it.
UP = "import os, sys, time; print('up', flush=True); print('warned', file=sys.stderr, flush=True); "


def test_the_lines_of_a_server_that_ends_well_are_not_shown(capfd):
    serve([sys.executable, "-c", UP], {})
    assert capfd.readouterr() == ("", "")


def test_the_last_lines_of_a_server_that_fails_are_shown(capfd):
    code = UP + "[print('line', number) for number in range(100)]; raise SystemExit(os.environ['WHY'])"
    with pytest.raises(RunError, match="The server ended with the exit code 1; what it said last stands above"):
        serve([sys.executable, "-c", code], {"WHY": "no such store"})
    out, err = capfd.readouterr()
    assert out == ""
    assert "no such store" in err
    assert "line 99" in err
    assert "line 10\n" not in err


def test_debugging_shows_every_line_once(capfd, monkeypatch):
    monkeypatch.setenv("AUTOPRUNE_DEBUG", "1")
    with pytest.raises(RunError):
        serve([sys.executable, "-c", UP + "sys.exit(3)"], {})
    assert sorted(capfd.readouterr().err.splitlines()) == ["up", "warned"]


@pytest.mark.parametrize("ends", ["itself", "never"])
def test_ctrl_c_ends_it_and_is_no_error(capfd, monkeypatch, ends):
    monkeypatch.setattr("autoprune.cli.serving._PATIENCE", 5.0 if ends == "itself" else 0.1)
    wait = "time.sleep(2)" if ends == "itself" else "time.sleep(600)"
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(1.0, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    serve([sys.executable, "-c", UP + wait], {})
    assert capfd.readouterr() == ("", "")
