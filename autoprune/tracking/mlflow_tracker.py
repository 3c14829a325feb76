"""Writes a search into MLflow: one parent run a search, one child run a finished candidate.

Everything happens on a background thread, in batches: a slow or absent server costs the search nothing but its record
there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoprune.core.candidate import Candidate, Outcome
from autoprune.core.cost import Cost
from autoprune.core.structure import PrunableGroup
from autoprune.tracking.background import BackgroundWriter, Job
from autoprune.tracking.scribe import Ending, Scribe, Search, Told
from autoprune.tracking.session import Session, ended, import_mlflow, legal_params, silence_loggers
from autoprune.tracking.ui import RunLocation


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
        search = Search(
            experiment=experiment,
            run_name=run_name,
            run_uuid=run_uuid,
            params=legal_params(params or {}),
            tags=dict(tags or {}),
            dense=dense_cost,
            groups=tuple(groups),
            metric=metric,
            resource=resource,
        )
        # Imported here and not on the thread: other libraries import pandas meanwhile, which bears no such race.
        self._levels = silence_loggers()
        self._session = Session(import_mlflow(), tracking_uri)
        self._scribe = Scribe(self._session, search)
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
        last = Ending(dict(summary or {}), dict(files or {}), front_ids, interrupted)
        complaint = ended(
            self._writer, lambda: self._scribe.end(last), uri=self._session.uri, what="search", seconds=seconds
        )
        if complaint is None:
            for name, level in self._levels.items():
                logging.getLogger(name).setLevel(level)
        return complaint
