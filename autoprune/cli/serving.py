"""A server in the foreground: its lines are kept off the terminal, and shown only where it ends by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence

from autoprune.cli.quiet import debugging
from autoprune.errors import RunError

#: Lines that are kept: a traceback with its cause.
_KEPT = 30
#: Seconds that a server gets to end after Ctrl-C, which it receives as we do.
_PATIENCE = 5.0


def serve(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Runs a server until Ctrl-C, or until it ends by itself.

    Args:
        command: that starts it.
        environment: variables to add to ours.

    Raises:
        RunError: it ended with an error; its last lines are on stderr.
    """
    kept: deque[str] = deque(maxlen=_KEPT)
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            kept.append(line)
            if debugging():
                print(line, end="", file=sys.stderr, flush=True)
        code = process.wait()
    except BaseException as error:
        _end(process)
        if isinstance(error, KeyboardInterrupt):
            return
        raise
    if code:
        if not debugging():
            print("".join(kept).rstrip(), file=sys.stderr)
        raise RunError(f"The server ended with the exit code {code}; what it said last stands above.")


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
