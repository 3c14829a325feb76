"""Writes a search into MLflow: one parent run a search, one child run a finished candidate.

Everything happens on a background thread, in batches: a slow or absent server costs the search nothing but its record
there. The only module that imports MLflow.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprune.core.candidate import Candidate, Outcome
from autoprune.core.cost import Cost
from autoprune.core.structure import PrunableGroup
from autoprune.errors import BackendError
from autoprune.tracking.background import BackgroundWriter, Job
from autoprune.tracking.scribe import Ending, Scribe, Search, Told, legal_key
from autoprune.tracking.ui import RunLocation
from autoprune.tracking.uris import is_server, mask_secrets, mask_uri

_LOGGERS = ("mlflow", "alembic", "sqlalchemy", "urllib3.connectionpool")

#: How long a search that is over waits for a server that has not answered once.
_UNANSWERED_SECONDS = 10.0


class MlflowTracker:
    """A `Tracker` that writes to MLflow; `close` it at the end of the search, however it ended."""

    def __init__(
        self,
        *,
        tracking_uri: str,
        experiment: str,
        run_name: str,
        run_uuid: str,
        dense_cost: Cost,
        groups: Sequence[PrunableGroup],
        metric: str = "accuracy",
        resource: str = "macs",
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Starts writing; returns before the store has answered.

        Args:
            tracking_uri: the store, for example `default_store(folder)`.
            experiment: its name; made if it does not exist.
            run_name: the parent run's name.
            run_uuid: of the search. A parent run that carries it is continued, its children are not duplicated.
            dense_cost: of the dense network.
            groups: the prunable groups, in the order of every structure.
            metric: what people call the accuracy of the task.
            resource: what the front trades for it.
            params: of the parent run.
            tags: of the parent run.

        Raises:
            BackendError: MLflow is not installed.
        """
        self._search = Search(
            uri=tracking_uri,
            experiment=experiment,
            run_name=run_name,
            run_uuid=run_uuid,
            params={legal_key(name): mask_secrets(str(value)) for name, value in (params or {}).items()},
            tags={name: mask_secrets(value) for name, value in (tags or {}).items()},
            dense=dense_cost,
            groups=tuple(groups),
            metric=metric,
            resource=resource,
        )
        # Imported here and not on the thread: other libraries import pandas meanwhile, which bears no such race.
        self._levels = silence_loggers()
        mlflow = import_mlflow()
        silence_loggers()  # again: importing MLflow configures its logger
        self._scribe = Scribe(mlflow, self._search)
        self._writer = BackgroundWriter(self._scribe.open, name="autoprune-mlflow")
        self._past: list[Job] | None = None
        self._closed = False

    def asked(self, candidate: Candidate) -> None:
        """Does nothing: a candidate gets its run when it is finished."""

    def told(self, outcome: Outcome, *, finished: bool) -> None:
        """Queues an outcome to be written; returns at once."""
        told = Told(outcome, finished)

        def write() -> None:
            self._scribe.write(told)

        if self._past is None:
            self._writer.submit(write)
        else:
            self._past.append(write)

    @contextmanager
    def hearing_past(self) -> Iterator[None]:
        """Queues what is told meanwhile in one place: a replay of thousands is over before the store has opened."""
        past: list[Job] = []
        self._past = past
        try:
            yield
        finally:
            self._past = None
            if past:
                self._writer.submit(*past)

    def location(self, *, seconds: float = 0.0) -> RunLocation | None:
        """Returns where the search is found, once the store has answered; waits for that at most `seconds`."""
        self._writer.wait_ready(seconds)
        return self._scribe.location

    def close(
        self,
        summary: Mapping[str, Any] | None = None,
        files: Mapping[str, Path] | None = None,
        front_ids: set[int] | None = None,
        *,
        interrupted: bool = False,
        seconds: float = 30.0,
    ) -> str | None:
        """Writes what is left and ends the parent run.

        Args:
            summary: the search's summary, whose figures become metrics of the parent run.
            files: {path among the artifacts: file or folder} to copy to the parent run.
            front_ids: candidates on the final front; as the tracker saw it if None.
            interrupted: whether the search stopped early; it may be continued.
            seconds: how long to wait for the store.

        Returns:
            One line that says what could not be written, or None.
        """
        if self._closed:
            return None
        self._closed = True
        if is_server(self._search.uri) and not self._writer.ready:
            seconds = min(seconds, _UNANSWERED_SECONDS)
        last = Ending(dict(summary or {}), dict(files or {}), front_ids, interrupted)
        complete = self._writer.finish(seconds=seconds, last=lambda: self._scribe.end(last))
        if complete:
            for name, level in self._levels.items():
                logging.getLogger(name).setLevel(level)
            return None
        reason = mask_secrets(self._writer.error or "it did not answer in time")
        return (
            f"{self._writer.lost} entries of this search could not be written to MLflow at "
            f"{mask_uri(self._search.uri)}: {reason}. The run folder has all of them."
        )


def import_mlflow() -> ModuleType:
    """Returns MLflow, told to be quiet.

    Raises:
        BackendError: it is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # `set_terminated` prints a link to standard output otherwise, even where there is no server to open.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow
            import mlflow.entities
        except ImportError as error:
            raise BackendError(
                f"MLflow cannot be imported ({error}). Install it (`pip install mlflow`) or search without tracking."
            ) from error
    module: ModuleType = mlflow
    return module


def silence_loggers() -> dict[str, int]:
    """Silences the loggers of MLflow and of what it calls; returns their former levels."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return levels
