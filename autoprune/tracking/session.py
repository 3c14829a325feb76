"""MLflow as everything here uses it: imported quietly, and a store whose runs are found again, made and written to.

The only module that imports MLflow. Keys become such as MLflow takes, and texts lose their secrets, on the way in.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

from autoprune.errors import BackendError
from autoprune.tracking.background import BackgroundWriter, Job
from autoprune.tracking.uris import artifact_root, is_server, mask_secrets, mask_uri

_LOGGERS = ("mlflow", "alembic", "sqlalchemy", "urllib3.connectionpool")
_ILLEGAL = re.compile(r"[^\w\-. :/]")
#: How long whoever has ended waits for a server that has not answered once.
_UNANSWERED_SECONDS = 10.0


def import_mlflow() -> ModuleType:
    """Returns MLflow, told to be quiet.

    Raises:
        BackendError: it is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # `set_terminated` prints a link to standard output otherwise, even where there is no server to open.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    silence_loggers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow
            import mlflow.entities
        except ImportError as error:
            raise BackendError(
                f"MLflow cannot be imported ({error}). Install it (`pip install mlflow`) or search without tracking."
            ) from error
    silence_loggers()  # again: importing MLflow configures its logger
    module: ModuleType = mlflow
    return module


def silence_loggers() -> dict[str, int]:
    """Silences the loggers of MLflow and of what it calls; returns their former levels."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return levels


class Session:
    """One store. Every method may be called again after it failed.

    What a store refuses is an `MlflowException`, as MLflow raises it; what its disk or its server's library raises
    passes through, too. Those who write in the background count it, the registry makes one line of it.

    Attributes:
        mlflow: the imported module.
        uri: address of the store.
    """

    def __init__(self, mlflow: ModuleType, uri: str) -> None:
        self.mlflow = mlflow
        self.uri = uri

    @cached_property
    def client(self) -> Any:
        """MLflow's own client, made when it is first needed: the store may not answer yet.

        Raises:
            MlflowException: the address names no store, or the store cannot be opened.
        """
        return self.mlflow.MlflowClient(tracking_uri=self.uri)

    def experiment(self, name: str) -> str:
        """Returns the id of an experiment, which is made, or brought back, where it is missing.

        Raises:
            MlflowException: the store does not answer, or takes no experiment of this name from this user.
        """
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name, artifact_location=artifact_root(self.uri)))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def find(self, experiment: str, uuid: str, *, role: str) -> Any:
        """Returns the run in a role, of the search or the training with this id; None where there is none.

        Raises:
            MlflowException: the store does not answer.
        """
        query = f"tags.`autoprune.run` = '{uuid}' AND tags.`autoprune.role` = '{role}'"
        return next(iter(self.client.search_runs([experiment], query, max_results=1)), None)

    def make(
        self, experiment: str, name: str, *, role: str, tags: Mapping[str, str], started: int | None = None
    ) -> str:
        """Returns the id of a new run; `started` is in milliseconds since 1970, now if None.

        Raises:
            MlflowException: the store does not answer, or takes no run from this user.
        """
        own = {"autoprune.role": role, "mlflow.user": _user_name(), "mlflow.source.name": "autoprune"}
        tags = {key: mask_secrets(value) for key, value in tags.items()} | own
        return str(self.client.create_run(experiment, run_name=name, start_time=started, tags=tags).info.run_id)

    def write(
        self,
        run: str,
        *,
        metrics: Sequence[Any] = (),
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Writes to a run, in one call: every call is a transaction, and a round trip to a server.

        Raises:
            MlflowException: the store does not answer, the run is gone, or a parameter has another value there.
        """
        kinds = self.mlflow.entities
        self.client.log_batch(
            run,
            metrics=metrics,
            params=[kinds.Param(key, value) for key, value in legal_params(params or {}).items()],
            tags=[kinds.RunTag(key, mask_secrets(value)) for key, value in (tags or {}).items()],
        )

    def metrics(self, values: Mapping[str, float], *, at: int, step: int = 0) -> list[Any]:
        """Returns figures as `write` takes them; `at` is in milliseconds since 1970."""
        return [self.mlflow.entities.Metric(legal_key(key), float(value), at, step) for key, value in values.items()]


def ended(writer: BackgroundWriter, last: Job, *, uri: str, what: str, seconds: float = 30.0) -> str | None:
    """Does the last job of a writer; returns one line that says what could not be written, or None.

    Args:
        writer: writes to a store.
        last: what is left to do.
        uri: of the store.
        what: whose entries they are, for people.
        seconds: how long to wait for the store.
    """
    if is_server(uri) and not writer.ready:
        seconds = min(seconds, _UNANSWERED_SECONDS)
    if writer.finish(seconds=seconds, last=last):
        return None
    reason = mask_secrets(writer.error or "it did not answer in time")
    return (
        f"{writer.lost} entries of this {what} could not be written to MLflow at {mask_uri(uri)}: {reason}. "
        "The run folder has all of them."
    )


def legal_params(params: Mapping[str, object]) -> dict[str, str]:
    """Returns parameters as MLflow takes them, without secrets."""
    return {legal_key(key): mask_secrets(str(value)) for key, value in params.items()}


def legal_key(name: str) -> str:
    """Returns a name that MLflow takes: letters, digits and `_-. :/`, at most 250 of them."""
    return _ILLEGAL.sub("_", name)[:250]


def now_ms() -> int:
    """Returns milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _user_name() -> str:
    """Returns who runs this, for the column of that name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's numeric user has no name
        return "unknown"
