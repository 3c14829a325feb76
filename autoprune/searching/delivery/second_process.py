"""Second processes that get `torch.export` and MLflow ready while a network is made, then export and write it.

Importing the two and opening a store takes longer than cutting and testing a small network, and no thread can do it
beside: imports hold the interpreter. Nothing here imports torch at once, so that the processes start first.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from autoprune.errors import BackendError, ModelError, one_line

if TYPE_CHECKING:
    from types import TracebackType

    from autoprune.tracking.registry import LoggedNetwork, PickedNetwork

#: `-P` keeps the working directory off the path: what is imported is what this process would import.
_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from autoprune.searching.delivery.second_process import serve; serve(sys.argv[2])"
)
#: What takes long to import, by work: the private module if torch still has it.
_HEAVY = {"export": "torch.export._trace", "log": "mlflow.pyfunc"}


def exported(network: Any, images: Any) -> bytes:
    """Returns a torch module on the CPU as a `torch.export` file, which takes any batch size.

    Args:
        network: in eval mode.
        images: (B, C, H, W) float32 array of an example, B of 2 or more.

    Raises:
        BackendError: it cannot be traced, or its forward makes a constant of the number of images.
    """
    import torch

    from autoprune.models.storage.exports.base import hushed
    from autoprune.models.storage.exports.graphs import graph_of, packed

    try:
        with hushed():
            return packed(graph_of(network, torch.from_numpy(images), dynamic=True, any_range=True))
    except ModelError as error:
        raise BackendError(str(error)) from error
    except Exception as error:  # whatever the tracer and the network's own code raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise BackendError(f"torch.export cannot trace the network: {reason}") from error


def logged(picked: PickedNetwork, where: Mapping[str, Any]) -> LoggedNetwork:
    """Returns what `log_network` returns; looked up late, for it imports MLflow."""
    from autoprune.tracking.registry import log_network

    return log_network(picked, **where)


#: {work: the function that does it, here or there}.
_WORK: Mapping[str, Callable[..., Any]] = {"export": exported, "log": logged}


class Aside:
    """Both processes, started at once; entered, they do not outlive the block.

    Where a process cannot be had, or cannot read the network, the work is done in this one: slower, the same.
    """

    def __init__(self) -> None:
        self._exporter, self._writer = _Process("export"), _Process("log")
        self._exporter.say(None)

    def __enter__(self) -> Aside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        self._exporter.close()
        self._writer.close()

    def open(self, store: str) -> None:
        """Lets a process open the store where the network will be written; does not wait for it."""
        self._writer.say(store)

    def exported(self, network: Any, images: Any) -> bytes:
        """Returns and raises what the function of that name does, which is called in a process."""
        content: bytes = self._exporter.done(network, images)
        return content

    def logged(self, picked: PickedNetwork, where: Mapping[str, Any]) -> LoggedNetwork:
        """Returns and raises what the function of that name does, which is called in a process.

        Raises:
            BackendError: also where the process died while it wrote.
        """
        entry: LoggedNetwork = self._writer.done(picked, where)
        return entry


class _Process:
    """A process that does one piece of work."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._process = _started(work)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def done(self, *arguments: Any) -> Any:
        """Returns what the work comes to."""
        try:
            job = pickle.dumps(arguments)
        except Exception:  # whatever a network's own classes raise
            job = b""
        kind, answer = self._heard() if job and self.say(job) else ("unread", None)
        if kind == "refused":
            raise BackendError(answer)
        return _WORK[self._work](*arguments) if kind == "unread" else answer

    def say(self, message: object) -> bool:
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
                f"The process that was to {self._work} the network ended with code {code}. Pick it again."
            ) from error
        return kind, answer


def serve(work: str) -> None:
    """The process: gets ready, reads the store and the network, answers; ends early when nobody is there."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints
    gc.disable()  # the process is short, and a fifth of the time of these imports went into looking for garbage
    with suppress(Exception):  # the work says what is missing
        import_module(_HEAVY[work])
    with suppress(EOFError, KeyboardInterrupt):
        store: str | None = pickle.load(sys.stdin.buffer)
        if store is not None:
            _warm_up(store)
        job: bytes = pickle.load(sys.stdin.buffer)
        with answers:
            pickle.dump(answered(work, job), answers)


def answered(work: str, job: bytes) -> tuple[str, Any]:
    """Returns what the process answers to pickled arguments: `done` and the result, `refused` or `unread` and why."""
    try:
        arguments = pickle.loads(job)
    except Exception as error:  # whatever a network's own classes raise
        return "unread", str(error)
    try:
        return "done", _WORK[work](*arguments)
    except BackendError as error:
        return "refused", str(error)
    except Exception as error:  # nobody reads what this process prints
        return "refused", f"The process that was to {work} the network broke off: {one_line(error)}. Pick it again."


def _warm_up(store: str) -> None:
    from autoprune.tracking.registry import open_existing

    with suppress(Exception):  # `log_network` meets it again, and says so
        open_existing(store)


def _started(work: str) -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND, json.dumps(sys.path), work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, TypeError, ValueError):  # no interpreter of its own: an embedded one
        return None


def _stream(pipe: Any) -> BinaryIO:
    stream: BinaryIO = pipe
    return stream
