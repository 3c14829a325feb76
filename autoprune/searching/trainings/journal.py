"""What every epoch of a training reached, told to whoever watches and kept with the checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoprune.data.images import IntArray
from autoprune.report import formats
from autoprune.report.observer import Observer
from autoprune.training.hooks import Hook
from autoprune.training.measure import measure

if TYPE_CHECKING:
    from autoprune.searching.trainings.run import Training

#: Hears an epoch and its figures.
OnRow = Callable[[float, Mapping[str, float]], object]


class Journal(Hook):
    """What every epoch reached; a checkpoint carries it along, so that a resumed training has all of it."""

    def __init__(
        self,
        training: Training,
        holdout: IntArray,
        observer: Observer,
        on_row: OnRow | None,
        *,
        count: int,
        device: str,
    ) -> None:
        """Tells `observer` and `on_row` of every epoch of a training on `count` images, on a device."""
        self.rows: list[dict[str, float]] = []
        self._training, self._holdout, self._count = training, holdout, count
        self._observer, self._on_row = observer, on_row
        self._started, self._before = time.perf_counter(), 0.0
        self._device = device

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, that of its earlier parts up to their last checkpoints included."""
        return self._before + time.perf_counter() - self._started

    def on_epoch(self, epoch: float, loss: float) -> None:
        """Measures the hold-out and tells of it; called before the checkpoint of the epoch is written."""
        training = self._training
        data = training.data
        accuracy = measure(training.model, data.scoring, self._holdout, device=self._device, task=data.task).accuracy
        step = max(0, replace(training.recipe, epochs=epoch).steps(self._count) - 1)
        rate = training.recipe.rate(step, images=self._count)
        row = {"epoch": epoch, "train_loss": loss, "holdout_accuracy": accuracy, "learning_rate": rate}
        self.rows.append({**row, "seconds": self.seconds})
        self._observer.stage(
            f"Epoch {epoch:g} of {training.recipe.epochs:g}: loss {loss:.4f}, hold-out {formats.accuracy(accuracy)}"
        )
        if self._on_row is not None:
            self._on_row(epoch, {name: value for name, value in row.items() if name != "epoch"})

    def state_dict(self) -> dict[str, Any]:
        """Returns the rows and the time they took."""
        return {"rows": [dict(row) for row in self.rows], "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the rows of the earlier parts."""
        self.rows = [dict(row) for row in state["rows"]]
        self._before = state["seconds"]
        self._observer.stage(f"Resuming {self._training.name} after {formats.epochs(len(self.rows))}")
