"""A server in the foreground says nothing unless it fails."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

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


@pytest.fixture(autouse=True)
def _ctrl_c():
    """Heeds Ctrl-C, which tests that a shell has started in the background are made to ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(up: Path, number: int = signal.SIGINT) -> None:
    """Sends the main thread, and nobody else, a signal as soon as a server has said that it is up."""
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        while not up.exists():
            time.sleep(0.05)
        signal.pthread_kill(main, number)

    threading.Thread(target=send, daemon=True).start()


def server(up: Path, code: str) -> list[str]:
    """Returns what starts a server that makes a file, then runs `code`."""
    return [sys.executable, "-c", f"{UP}import signal; from pathlib import Path\nup = Path({str(up)!r})\n{code}"]


@pytest.mark.parametrize("ends", ["itself", "terminated", "never"])
def test_ctrl_c_ends_it_and_is_no_error(capfd, monkeypatch, tmp_path, ends):
    monkeypatch.setattr("autoprune.cli.serving._PATIENCE", 60.0 if ends == "itself" else 0.5)
    up, clean = tmp_path / "up", tmp_path / "clean"
    handled = {
        "itself": "",
        "terminated": f"signal.signal(signal.SIGTERM, lambda *_: [Path({str(clean)!r}).touch(), sys.exit()])\n",
        "never": "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n",
    }[ends]
    interrupted(up)
    serve(server(up, f"{handled}up.touch(); time.sleep({2 if ends == 'itself' else 600})"), {})
    assert clean.exists() == (ends == "terminated")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ends", ["terminated", "never"])
def test_who_ends_us_by_sigterm_ends_the_server_too(capfd, monkeypatch, tmp_path, ends):
    monkeypatch.setattr("autoprune.cli.serving._PATIENCE", 60.0 if ends == "terminated" else 0.5)
    up, before = tmp_path / "up", signal.getsignal(signal.SIGTERM)
    handled = "" if ends == "terminated" else "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    interrupted(up, signal.SIGTERM)
    serve(server(up, f"{handled}up.write_text(str(os.getpid())); time.sleep(600)"), {})
    with pytest.raises(ProcessLookupError):
        os.kill(int(up.read_text()), 0)
    assert signal.getsignal(signal.SIGTERM) is before
    assert capfd.readouterr() == ("", "")


def test_a_server_that_says_much_while_it_ends_is_read_to_its_end(capfd, tmp_path):
    up, clean = tmp_path / "up", tmp_path / "clean"
    interrupted(up)
    code = f"up.touch(); time.sleep(1); os.write(1, b'y' * 1_000_000); Path({str(clean)!r}).touch()"
    serve(server(up, code), {})
    assert clean.exists()
    assert capfd.readouterr() == ("", "")


def test_what_a_server_has_started_delays_nothing_though_it_holds_the_pipe(capfd, tmp_path):
    up, release = tmp_path / "up", tmp_path / "release"
    child = f"import time; from pathlib import Path\nwhile not Path({str(release)!r}).exists(): time.sleep(0.1)"
    code = f"import subprocess; subprocess.Popen([sys.executable, '-c', {child!r}]); sys.exit(3)"
    # Should we wait for it, this would let it go after a time, and the next line find out.
    timer = threading.Timer(60, release.touch)
    timer.start()
    try:
        with pytest.raises(RunError, match="exit code 3"):
            serve(server(up, code), {})
        assert not release.exists()
    finally:
        timer.cancel()
        release.touch()
    assert "up" in capfd.readouterr().err
