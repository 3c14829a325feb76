"""A server in the foreground: its lines are kept off the terminal, and shown only where it ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from autoprune.cli.quiet import debugging
from autoprune.errors import RunError

#: Lines that are kept: a traceback with its cause.
_KEPT = 30
#: Seconds that a server gets to end after Ctrl-C, which it receives as we do, and after being told to.
_PATIENCE = 5.0
#: Seconds to wait for what a server said last, which lies in the pipe already.
_LAST_LINES = 1.0


def serve(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Runs a server until Ctrl-C or SIGTERM, which end it too, or until it ends by itself.

    What exit code it ends with is part of the message alone: ours says that there is something to be fixed, 2.

    Args:
        command: that starts it.
        environment: variables to add to ours.

    Raises:
        RunError: it ended with an error; its last lines are on stderr.
    """
    kept: deque[str] = deque(maxlen=_KEPT)
    with _terminated():
        process = subprocess.Popen(
            command,
            # A server in Python says what it says at once: else what it ends with overtakes what came before.
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        # In a thread of its own: a server that is being ended must not wait for somebody to read what it says, and
        # what it has started may hold the pipe open after it.
        reader = threading.Thread(target=_read, args=(process.stdout, kept), daemon=True)
        reader.start()
        try:
            code = process.wait()
        except _Terminated:
            process.terminate()  # unlike Ctrl-C, the signal was for us alone
            _end(process)
            return
        except BaseException as error:
            _end(process)
            if isinstance(error, KeyboardInterrupt):
                return
            raise
    reader.join(_LAST_LINES)
    if code:
        if not debugging():
            print("".join(kept.copy()).rstrip(), file=sys.stderr)
        raise RunError(f"The server ended with the exit code {code}; what it said last stands above.")


class _Terminated(BaseException):
    """SIGTERM, which is what `kill`, a service manager and a container's end send."""


@contextmanager
def _terminated() -> Iterator[None]:
    """Raises `_Terminated` where SIGTERM comes; outside the main thread, which hears no signals, it does nothing."""

    def hear(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: what is being ended shall be ended whole
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _read(lines: IO[str], kept: deque[str]) -> None:
    for line in lines:
        kept.append(line)
        if debugging():
            print(line, end="", file=sys.stderr, flush=True)


def _end(process: subprocess.Popen[str]) -> None:
    """Waits for a server to end after Ctrl-C, and ends it where it does not: the signal may have been for us alone."""
    try:
        for more in (process.terminate, process.kill):
            try:
                process.wait(_PATIENCE)
                return
            except subprocess.TimeoutExpired:
                more()
    except KeyboardInterrupt:  # again: whoever is there does not want to wait
        process.kill()
    process.wait()
