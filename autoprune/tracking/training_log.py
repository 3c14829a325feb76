"""Writes a training into MLflow: one run a training, with its curves; the training never waits for the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprune.tracking.background import BackgroundWriter
from autoprune.tracking.mlflow_tracker import import_mlflow, silence_loggers
from autoprune.tracking.scribe import find_experiment, legal_key, now_ms, user_name
from autoprune.tracking.uris import is_server, mask_secrets, mask_uri

#: How long a training that is over waits for the store, and for a server that has not answered once.
_SECONDS, _UNANSWERED_SECONDS = 30.0, 10.0


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
        silence_loggers()
        mlflow = import_mlflow()
        silence_loggers()  # again: importing MLflow configures its logger
        self._pen = _Pen(mlflow, run)
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
        silent = is_server(self._uri) and not self._writer.ready
        complete = self._writer.finish(
            seconds=_UNANSWERED_SECONDS if silent else _SECONDS,
            last=lambda: self._pen.end(metrics or {}, files, status),
        )
        if complete:
            return None
        reason = mask_secrets(self._writer.error or "it did not answer in time")
        return (
            f"{self._writer.lost} entries of this training could not be written to MLflow at {mask_uri(self._uri)}: "
            f"{reason}. Its folder has all of them."
        )


class _Pen:
    """The thread's side: every method may be run again after it failed half-way."""

    def __init__(self, mlflow: ModuleType, run: TrainingRun) -> None:
        self._mlflow = mlflow
        self._run = run
        self._client: Any = None
        self._id = ""

    def open(self) -> None:
        """Finds or makes the experiment and the run."""
        run = self._run
        self._client = self._client or self._mlflow.MlflowClient(tracking_uri=run.uri)
        experiment = find_experiment(self._client, run.experiment, run.uri)
        if not self._id:
            query = f"tags.`autoprune.run` = '{run.uuid}' AND tags.`autoprune.role` = 'training'"
            found = self._client.search_runs([experiment], query, max_results=1)
            self._id = str(found[0].info.run_id) if found else self._make(experiment)
        self._client.update_run(self._id, status="RUNNING")
        known = self._client.get_run(self._id).data.params
        texts = {legal_key(key): mask_secrets(str(value)) for key, value in run.params.items()}
        new = [self._mlflow.entities.Param(key, value) for key, value in texts.items() if key not in known]
        self._client.log_batch(self._id, params=new)

    def write(self, metrics: Mapping[str, float], *, step: int, at: int) -> None:
        """Writes the figures of a step."""
        values = [self._mlflow.entities.Metric(legal_key(k), float(v), at, step) for k, v in metrics.items()]
        self._client.log_batch(self._id, metrics=values)

    def end(self, metrics: Mapping[str, float], files: Sequence[Path], status: str) -> None:
        """Writes the final figures and files and ends the run."""
        self.write(metrics, step=0, at=now_ms())
        for path in files:
            self._client.log_artifact(self._id, str(path))
        self._client.set_terminated(self._id, status)

    def _make(self, experiment: str) -> str:
        tags = {
            **{key: mask_secrets(value) for key, value in self._run.tags.items()},
            "autoprune.role": "training",
            "autoprune.run": self._run.uuid,
            "mlflow.user": user_name(),
            "mlflow.source.name": "autoprune",
        }
        return str(self._client.create_run(experiment, run_name=self._run.name, tags=tags).info.run_id)
