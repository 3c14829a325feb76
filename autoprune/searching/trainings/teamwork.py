"""Trainings on several workers: the training travels to Ray Train, and what its leader tells comes back here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autoprune.core.seeds import derive_seed
from autoprune.data.bundle import missing_here
from autoprune.data.splits import Split
from autoprune.devices import device_of_worker, visible_gpus
from autoprune.errors import AutopruneError, DataError, DivergenceError
from autoprune.report.observer import NullObserver, Observer
from autoprune.training.checkpoints import keep_checkpoint, newest_checkpoint
from autoprune.training.team import Team

if TYPE_CHECKING:
    from autoprune.searching.trainings.journal import OnRow
    from autoprune.searching.trainings.run import Training

Tell = Callable[[tuple[Any, ...]], None]

#: What a process tells before it ends without a network, and what that is for whoever waits.
_FAILURES: Mapping[str, type[AutopruneError]] = {"diverged": DivergenceError, "absent": DataError}


@dataclass(frozen=True, eq=False)
class TeamTraining:
    """A training as every process of a team carries it out.

    Attributes:
        training: without the function that saves, which stays with the driver.
        split: of the images.
        device: of the process that starts the team.
        checkpoint: name and bytes of the checkpoint to go on from, None to begin.
    """

    training: Training
    split: Split
    device: str
    checkpoint: tuple[str, bytes] | None

    def __call__(self, rank: int, size: int, tell: Tell, *, gpu: bool) -> None:
        """Trains as process `rank` of `size`; the leader tells stages, epochs, checkpoints and the result."""
        from autoprune.searching.trainings.run import trained

        device = device_of_worker(self.device, gpu=gpu)
        data = self.training.data
        missing = missing_here(data.train) or (None if data.validation is None else missing_here(data.validation))
        if missing is not None:
            message = f"{missing}, or finetune with --workers 1."
            tell(("absent", message))
            raise DataError(message)
        torch.set_num_threads(1)
        torch.manual_seed(derive_seed(self.training.options.seed, "dropout", rank))
        team = Team(rank, size)
        with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            place = Path(folder)
            if self.checkpoint is not None and team.leads:
                (place / self.checkpoint[0]).write_bytes(self.checkpoint[1])
            teller = _Teller(tell, place) if team.leads else NullObserver()
            try:
                found = trained(
                    self.training, self.split, teller, device, checkpoints=place, on_row=_rows(teller), team=team
                )
            except DivergenceError as error:
                tell(("diverged", str(error)))
                raise
        if team.leads:
            state = {name: value.cpu() for name, value in self.training.model.state_dict().items()}
            tell(("done", found, state))


class _Teller(NullObserver):
    """An observer in another process: it passes on what it hears, and new checkpoints with it."""

    def __init__(self, tell: Tell, folder: Path) -> None:
        self._tell, self._folder = tell, folder
        self._sent: Path | None = newest_checkpoint(folder)

    def stage(self, text: str) -> None:
        """Passes on."""
        self._tell(("stage", text))

    def progress(self, done: float, total: float) -> None:
        """Passes on now and then; sends the newest checkpoint once it is whole."""
        newest = newest_checkpoint(self._folder)
        if newest is not None and newest != self._sent:
            self._sent = newest
            self._tell(("checkpoint", newest.name, newest.read_bytes()))
        if done % max(1, int(total) // 100) == 0:
            self._tell(("progress", done, total))

    def row(self, epoch: float, row: Mapping[str, float]) -> None:
        """Passes on what an epoch reached."""
        self._tell(("row", epoch, dict(row)))


def _rows(observer: Observer) -> OnRow | None:
    return observer.row if isinstance(observer, _Teller) else None


def trained_by_team(
    training: Training, split: Split, observer: Observer, device: str, *, checkpoints: Path, on_row: OnRow | None = None
) -> dict[str, Any]:
    """Trains the model on as many workers as the training's options say; returns what `trained` returns.

    Raises:
        BackendError: Ray cannot be reached, or a process died; the checkpoints are sound.
        DataError: a node lacks the images.
        DivergenceError: the loss or a weight is not finite.
    """
    from autoprune.backends.ray_tune.team import run_team

    options = training.options
    newest = newest_checkpoint(checkpoints)
    work = TeamTraining(
        replace(training, save=_stays_here, data=training.data.from_anywhere()),
        split,
        device,
        None if newest is None else (newest.name, newest.read_bytes()),
    )
    hearing = Hearing(observer, on_row, checkpoints)
    observer.stage(f"Starting {options.workers} workers")
    try:
        run_team(
            work,
            workers=options.workers,
            # On a cluster its own GPUs count, whatever this machine has.
            gpu=False if options.device == "cpu" else None,
            local_gpus=visible_gpus(device),
            address=options.ray_address,
            hear=hearing,
            warn=observer.warning,
        )
    except Exception as error:
        if hearing.failure is not None:
            raise hearing.failure from error
        raise
    assert hearing.result is not None
    found, state = hearing.result
    training.model.load_state_dict(state)
    return found


class Hearing:
    """Does here what the leader of a team tells."""

    def __init__(self, observer: Observer, on_row: OnRow | None, checkpoints: Path) -> None:
        self.result: tuple[dict[str, Any], dict[str, Tensor]] | None = None
        self.failure: AutopruneError | None = None
        self._observer, self._on_row, self._checkpoints = observer, on_row, checkpoints

    def __call__(self, item: tuple[Any, ...]) -> None:
        """Takes one item."""
        what, *values = item
        if what == "stage":
            self._observer.stage(*values)
        elif what == "progress":
            self._observer.progress(*values)
        elif what == "row" and self._on_row is not None:
            self._on_row(*values)
        elif what == "checkpoint":
            keep_checkpoint(self._checkpoints, *values)
        elif what in _FAILURES:
            self.failure = _FAILURES[what](*values)
        elif what == "done":
            found, state = values
            self.result = found, state


def _stays_here(*_: Any) -> None:
    raise AssertionError("A network is saved by the driver.")
