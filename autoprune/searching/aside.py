"""A second process that gets MLflow and `torch.export` ready while a network is made, and then writes it.

Importing the two and opening a store takes longer than cutting and testing a small network, and no thread can do it
beside: imports hold the interpreter. Nothing here imports torch, so that the process starts first.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from autoprune.errors import BackendError

if TYPE_CHECKING:
    from types import TracebackType

    from autoprune.tracking.registry import LoggedNetwork, PickedNetwork

#: `-P` keeps the working directory off the path: what is imported is what this process would import.
_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from autoprune.searching.aside import serve; serve()"
)
#: Modules that take long to import and that writing a network needs, the private one if torch still has it.
_HEAVY = ("mlflow.pytorch", "torch.export._trace")


class Aside:
    """The second process, started at once; entered, it does not outlive the block.

    Where it cannot be had, or cannot read the network, `log` writes in this process: slower, the same.
    """

    def __init__(self) -> None:
        self._process = _started()

    def __enter__(self) -> Aside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def open(self, store: str) -> None:
        """Lets the process open the store where the network will be written; does not wait for it."""
        self._say(store)

    def log(
        self, picked: PickedNetwork, *, store: str, experiment: str, search: str, register: str | None = None
    ) -> LoggedNetwork:
        """Returns what `log_network` returns, which is called in the process.

        Raises:
            BackendError: MLflow did not take the network, or the process died while it wrote.
        """
        from autoprune.tracking.registry import log_network

        where = {"store": store, "experiment": experiment, "search": search, "register": register}
        try:
            job = pickle.dumps((picked, where))
        except Exception:  # whatever a network's own classes raise
            job = b""
        if not job or not self._say(job):
            return log_network(picked, store=store, experiment=experiment, search=search, register=register)
        kind, answer = self._heard()
        if kind == "unread":
            return log_network(picked, store=store, experiment=experiment, search=search, register=register)
        if kind == "refused":
            raise BackendError(answer)
        logged: LoggedNetwork = answer
        return logged

    def _say(self, message: object) -> bool:
        """Returns whether the process is there to read a message."""
        if self._process is None or self._process.poll() is not None:
            return False
        try:
            pickle.dump(message, _stream(self._process.stdin))
            _stream(self._process.stdin).flush()
        except OSError:
            return False
        return True

    def _heard(self) -> tuple[str, Any]:
        assert self._process is not None
        try:
            kind, answer = pickle.load(_stream(self._process.stdout))
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            raise BackendError(
                f"The process that writes to MLflow ended with code {code} before it was done. Pick it again."
            ) from error
        return kind, answer


def serve() -> None:
    """The process: gets ready, reads the store and the network, writes, answers; ends early when nobody is there."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints
    gc.disable()  # the process is short, and a fifth of the time of these imports went into looking for garbage
    for module in _HEAVY:
        with suppress(Exception):  # `log_network` says what is missing
            import_module(module)
    with suppress(EOFError, KeyboardInterrupt):
        store: str = pickle.load(sys.stdin.buffer)
        _warm_up(store)
        job: bytes = pickle.load(sys.stdin.buffer)
        with answers:
            pickle.dump(_done(job), answers)


def _done(job: bytes) -> tuple[str, Any]:
    from autoprune.tracking.registry import log_network

    try:
        picked, where = pickle.loads(job)
    except Exception as error:  # whatever a network's own classes raise
        return "unread", str(error)
    try:
        return "logged", log_network(picked, **where)
    except BackendError as error:
        return "refused", str(error)


def _warm_up(store: str) -> None:
    from autoprune.tracking.registry import open_existing

    with suppress(Exception):  # `log_network` meets it again, and says so
        open_existing(store)


def _started() -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, TypeError, ValueError):  # no interpreter of its own: an embedded one
        return None


def _stream(pipe: Any) -> BinaryIO:
    stream: BinaryIO = pipe
    return stream
