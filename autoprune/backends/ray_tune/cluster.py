"""Starting or joining a Ray cluster, quietly."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker

from autoprune.errors import BackendError, one_line

_MIB = 2**20
_STORE_LIMIT, _STORE_LEAST = 2048 * _MIB, 128 * _MIB
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # With the new output engine, verbose=0 still prints.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # A worker that was given no GPU sees none.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files take 30 ms a trial.
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}

_log = logging.getLogger(__name__)


@contextmanager
def settings() -> Iterator[None]:
    """Sets, and on exit restores, the environment that makes Ray and Tune silent and write next to nothing."""
    with _inherited(_SETTINGS):
        yield


def import_path() -> dict[str, str]:
    """Returns the environment in which workers import what this process can: modules beside a script or notebook."""
    installed = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    own = [str(Path(entry).resolve()) for entry in sys.path if not entry.startswith(installed) and Path(entry).is_dir()]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(own))}


@contextmanager
def _inherited(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what Ray logs, and what it prints to stdout of every worker that dies and that it restarts."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    # Ray has no switch for these lines, which would spoil the output of --json.
    printing = getattr(ray_worker, "print_to_stdstream", None)
    if printing is not None:
        ray_worker.print_to_stdstream = _print_nothing
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if printing is not None:
            ray_worker.print_to_stdstream = printing


def _print_nothing(*_arguments: Any, **_options: Any) -> None:
    pass


@contextmanager
def cluster(address: str | None, cpus: int, array_bytes: int, *, gpus: Sequence[str] = ()) -> Iterator[None]:
    """Connects to a cluster, or starts Ray on this machine; ends on exit what it began.

    Args:
        address: of a running cluster; None to start Ray here. A Ray that runs in this process is used anyway, with a
            warning where it has another address.
        cpus: that a Ray which is started here is to have.
        array_bytes: size of the arrays that workers share.
        gpus: that a Ray which is started here is to have, as `CUDA_VISIBLE_DEVICES` names them.
    """
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", here):
            _log.warning(
                "Ray runs in this process already, at %s: it is used, and not %s. Call ray.shutdown() before, to be "
                "connected there.",
                here,
                address,
            )
        yield
        return
    if address is not None:
        try:
            with _connection_errors(address), _sigterm_as_before():
                _require_listener(address)
                ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
            yield
        finally:
            ray.shutdown()
        return
    _give_token()
    try:
        # Every process of this Ray, not just evaluators, must find what this one finds: autoprune may not be installed.
        shown = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        environment = _inherited({**import_path(), **shown})
        with _connection_errors("this machine"), environment, _sigterm_as_before(), _apart():
            ray.init(
                num_cpus=cpus,
                num_gpus=len(gpus),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="CRITICAL",
                object_store_memory=min(_STORE_LIMIT, _STORE_LEAST + array_bytes * 5 // 4),
            )
        yield
    finally:
        ray.shutdown()


class _Apart(threading.local):
    """Whether processes that this thread starts leave its process group."""

    wanted = False


_apart_now = _Apart()


def _leave_group() -> None:
    if _apart_now.wanted:
        os.setpgid(0, 0)


if hasattr(os, "register_at_fork"):
    # Ray starts its daemons by way of Python code between fork and exec, where such functions are called.
    os.register_at_fork(after_in_child=_leave_group)


@contextmanager
def _apart() -> Iterator[None]:
    """Keeps the daemons that Ray starts meanwhile out of this process's group.

    `timeout`, shells and batch systems send SIGTERM to the whole group. Ray's daemons would be gone at once, and the
    search with them, a minute later, before it has said how to go on. Linux lets them die with this process all the
    same; elsewhere Ray kills the group for that, and they stay in it.
    """
    _apart_now.wanted = sys.platform == "linux"
    try:
        yield
    finally:
        _apart_now.wanted = False


@contextmanager
def _sigterm_as_before() -> Iterator[None]:
    """Puts back the handler of SIGTERM that `ray.init` replaces by its own, which ends the process without a word.

    What comes while Ray starts counts as Ctrl-C.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        if error.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt from error
    finally:
        # None stands for a handler that was not installed from Python and cannot be put back.
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _give_token() -> None:
    """Lets a Ray that this process starts take connections from this user alone, by a token that is in no file.

    Left to itself, Ray writes a token to the home folder, readable to all, that later clusters of the user stumble
    over: a head node asks for it because it is there, and the other nodes do not send it. The token stays as long as
    the process: Ray reads it once.
    """
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def _connection_errors(address: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Ray raises Exception itself where a node takes too long to start
        if "Version mismatch" in str(error):
            # Ray says in six lines which is which.
            said = " ".join(str(error).partition(":")[2].split())
            raise BackendError(
                f"Ray at {address} is of another version: {said}. Install the same Ray and Python on every node and "
                "here."
            ) from error
        hint = (
            "Is it running, and are RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH the same on all its nodes and here?"
            if address != "this machine"
            else "Try --backend serial."
        )
        raise BackendError(f"Cannot reach Ray at {address}: {one_line(error).rstrip('.')}. {hint}") from error


def _require_listener(address: str) -> None:
    """Fails within seconds where nothing listens: Ray itself would try for a minute."""
    host, found, port = address.rpartition(":")
    if not found or "//" in address:
        return
    if not port.isdigit():
        raise ValueError(f"{address!r} has no port. Write auto or HOST:PORT.")
    with socket.create_connection((host, int(port)), timeout=5):
        return
