"""Writes a training into MLflow: one run a training, with its curves; the training never waits for the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.tracking.background import BackgroundWriter
from autoprune.tracking.session import Session, ended, import_mlflow, legal_params, now_ms


@dataclass(frozen=True)
class TrainingRun:
    """What the run of a training is called and described by.

    Attributes:
        uri: of the store.
        experiment: its name; made if it does not exist.
        name: of the run.
        uuid: of the training, for good: a run that carries it is continued.
        params: of the run.
        tags: of the run.
    """

    uri: str
    experiment: str
    name: str
    uuid: str
    params: Mapping[str, object]
    tags: Mapping[str, str]


class TrainingLog:
    """The run of one training; `close` it, however the training ended."""

    def __init__(self, run: TrainingRun) -> None:
        """Starts writing; returns before the store has answered.

        Raises:
            BackendError: MLflow is not installed.
        """
        self._uri = run.uri
        self._pen = _Pen(Session(import_mlflow(), run.uri), run)
        self._writer = BackgroundWriter(self._pen.open, name="autoprune-mlflow")
        self._closed = False

    def epoch(self, epoch: float, metrics: Mapping[str, float]) -> None:
        """Queues the figures of an epoch; returns at once."""
        at = now_ms()
        # MLflow's steps are whole numbers; a fraction at the end counts as the epoch it has begun.
        self._writer.submit(lambda: self._pen.write(metrics, step=-int(-epoch // 1), at=at))

    def close(
        self, metrics: Mapping[str, float] | None = None, files: Sequence[Path] = (), *, status: str
    ) -> str | None:
        """Writes what is left and ends the run.

        Args:
            metrics: the final figures.
            files: to copy to the run.
            status: `FINISHED`, `FAILED` or `KILLED`.

        Returns:
            One line that says what could not be written, or None.
        """
        if self._closed:
            return None
        self._closed = True

        def last() -> None:
            self._pen.end(metrics or {}, files, status)

        return ended(self._writer, last, uri=self._uri, what="training")


class _Pen:
    """The thread's side: every method may be run again after it failed half-way."""

    def __init__(self, session: Session, run: TrainingRun) -> None:
        self._session = session
        self._run = run
        self._id = ""

    def open(self) -> None:
        """Finds or makes the experiment and the run."""
        run, session = self._run, self._session
        experiment = session.experiment(run.experiment)
        if not self._id:
            found = session.find(experiment, run.uuid, role="training")
            self._id = self._make(experiment) if found is None else str(found.info.run_id)
        session.client.update_run(self._id, status="RUNNING")
        known = session.client.get_run(self._id).data.params
        session.write(
            self._id, params={key: value for key, value in legal_params(run.params).items() if key not in known}
        )

    def write(self, metrics: Mapping[str, float], *, step: int, at: int) -> None:
        """Writes the figures of a step."""
        self._session.write(self._id, metrics=self._session.metrics(metrics, at=at, step=step))

    def end(self, metrics: Mapping[str, float], files: Sequence[Path], status: str) -> None:
        """Writes the final figures and files and ends the run."""
        self.write(metrics, step=0, at=now_ms())
        for path in files:
            self._session.client.log_artifact(self._id, str(path))
        self._session.client.set_terminated(self._id, status)

    def _make(self, experiment: str) -> str:
        tags = {**self._run.tags, "autoprune.run": self._run.uuid}
        return self._session.make(experiment, self._run.name, role="training", tags=tags)
