"""Trainings as the commands run them: a folder with checkpoints, a journal of every epoch, one test at the end.

Hold-out images are taken from the training images and never trained on; they are told of after every epoch. The test
set is read once, by the network of the last epoch: no network is chosen by it, nor by the hold-out.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.config.layout import CHECKPOINTS, SUMMARY, TRAINING
from autoprune.core.files import require_inside
from autoprune.core.seeds import derive_seed
from autoprune.data.bundle import DataBundle
from autoprune.data.splits import Split
from autoprune.devices import usable_device
from autoprune.errors import DivergenceError, RunError
from autoprune.report.files import atomic_write_text
from autoprune.report.observer import Observer
from autoprune.searching.inputs.run_folder import TRAINING_FORMAT, RunFolder
from autoprune.searching.latency.timing import torch_threads
from autoprune.searching.search.finish import figures
from autoprune.searching.search.preparation import HOLDOUT_IMAGES, useful_threads
from autoprune.searching.search.results import command_line, package_versions
from autoprune.searching.trainings.journal import Journal, OnRow
from autoprune.searching.trainings.options import RunOptions
from autoprune.searching.trainings.teamwork import trained_by_team
from autoprune.study.lock import FolderLock
from autoprune.tracking.stores import require_usable
from autoprune.tracking.uris import default_store, mask_secrets, mask_uri, named_store
from autoprune.training.checkpoints import Checkpointing, newest_checkpoint, remove_checkpoints
from autoprune.training.hooks import Hook
from autoprune.training.measure import Scores, measure
from autoprune.training.recipe import Recipe
from autoprune.training.team import Team
from autoprune.training.trainer import train

if TYPE_CHECKING:
    from autoprune.tracking.training_log import TrainingLog

#: A training holds out a tenth of its images at most: a search may take a quarter, for it trains on none.
_HOLDOUT_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Training:
    """A training that is ready to begin or to go on.

    Attributes:
        kind: the command that runs it.
        name: of the network, for people.
        options: as asked.
        recipe: how it is trained.
        model: what is trained.
        data: on what.
        save: writes the trained network into the folder, told the report.
        teacher: whose logits are distilled.
        hooks: what takes part in the training.
        tests_before: whether the network is worth testing before the training, too.
    """

    kind: str
    name: str
    options: RunOptions
    recipe: Recipe
    model: nn.Module
    data: DataBundle
    save: Callable[[nn.Module, Mapping[str, Any]], None]
    teacher: nn.Module | None = None
    hooks: tuple[Hook, ...] = ()
    tests_before: bool = False


def carry_out(training: Training, observer: Observer) -> dict[str, Any]:
    """Runs a training to its end and returns its report, which `training.json` holds too.

    Raises:
        DivergenceError: the loss or a weight is not finite; the last good checkpoint is named.
        RunError: the folder cannot be written, or its checkpoints are of another training.
    """
    if not training.options.no_mlflow:
        require_usable(_store(training.options), named=named_store(training.options.tracking_uri) is not None)
    device = usable_device(training.options.device)
    split = split_of(training.data, training.options)
    with FolderLock(training.options.out):
        require_inside(training.options.out / CHECKPOINTS, training.options.out)
        return _carry_out(training, observer, device=device, split=split)


def _carry_out(training: Training, observer: Observer, *, device: str, split: Split) -> dict[str, Any]:
    out, record = training.options.out, _begun(training, device, split)
    if record["finished"]:
        return record
    training = replace(training, recipe=_by_rules_of_then(training, record["recipe"]))
    threads = useful_threads(training.data.input_shape)
    log = _log(training, record)
    status = "FAILED"
    try:
        with torch_threads(threads), torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(training.options.seed, "dropout"))
            if training.tests_before and record["accuracy_before"] is None:
                observer.stage(f"Testing {training.name} before the training")
                record["accuracy_before"] = _tested(training, device).accuracy
                _write(record, out)
            carried = trained if training.options.workers == 1 else trained_by_team
            on_row = None if log is None else log.epoch
            record |= carried(training, split, observer, device, checkpoints=out / CHECKPOINTS, on_row=on_row)
        training.save(training.model.cpu(), record)
        record["finished"] = True
        _write(record, out)
        # From here on there is nothing to go on with.
        remove_checkpoints(out / CHECKPOINTS)
        status = "FINISHED"
    except DivergenceError as error:
        raise DivergenceError(f"{error} {_last_good(training)}") from error
    except KeyboardInterrupt as error:
        status = "KILLED"
        if newest_checkpoint(out / CHECKPOINTS) is not None:
            error.add_note(f"Continue with: autoprune {training.kind} --resume {out}")
        raise
    finally:
        _close(log, record, observer, out=out, status=status)
    return record


def trained(
    training: Training,
    split: Split,
    observer: Observer,
    device: str,
    *,
    checkpoints: Path,
    on_row: OnRow | None = None,
    team: Team | None = None,
) -> dict[str, Any]:
    """Trains `training.model` and tests it.

    Args:
        training: what to train, and how.
        split: of the training images.
        observer: hears of stages, epochs and steps.
        device: where to compute.
        checkpoints: folder of the checkpoints.
        on_row: hears what every epoch reached.
        team: the processes that train together; None for this one alone.

    Returns:
        What `training.json` says of the result; nothing in a process that does not lead its team.
    """
    journal = Journal(training, split.holdout, observer, on_row, count=len(split.training), device=device)
    observer.stage(f"Training {training.name} on {len(split.training)} images ({device})")
    report = train(
        training.model,
        training.data.train,
        split.training,
        training.recipe,
        seed=derive_seed(training.options.seed, training.kind),
        teacher=training.teacher,
        augmentation=training.data.augmentation,
        device=device,
        hooks=(*training.hooks, journal),
        on_epoch=journal.on_epoch,
        on_step=observer.progress,
        checkpoint=Checkpointing(checkpoints, every_steps=training.options.checkpoint_steps),
        team=team,
        task=training.data.task,
    )
    if team is not None and not team.leads:
        return {}
    if not journal.rows or journal.rows[-1]["epoch"] != training.recipe.epochs:
        journal.on_epoch(training.recipe.epochs, report.loss)  # a fraction of an epoch at the end
    observer.stage(f"Testing {training.name}")
    test = _tested(training, device)
    best = max(journal.rows, key=lambda row: row["holdout_accuracy"])
    return {
        **figures(test),
        "test_loss": test.loss,
        "holdout_accuracy": journal.rows[-1]["holdout_accuracy"],
        "best": {"epoch": best["epoch"], "holdout_accuracy": best["holdout_accuracy"]},
        "steps": report.steps,
        "precision": report.precision,
        "seconds": journal.seconds,
        "history": journal.rows,
    }


def _tested(training: Training, device: str) -> Scores:
    return measure(training.model, training.data.test, device=device, task=training.data.task)


def _by_rules_of_then(training: Training, values: Mapping[str, Any]) -> Recipe:
    """Returns the recipe with what nobody gave as it was recorded: the rules for it may have changed meanwhile."""
    ruled = [name for name in ("learning_rate", "batch_size") if getattr(training.options, name) is None]
    recorded: dict[str, Any] = {name: values[name] for name in ruled if name in values}
    return replace(training.recipe, **recorded)


def _begun(training: Training, device: str, split: Split) -> dict[str, Any]:
    """Returns the record of the training, written down before its first step so that it can be resumed."""
    options = training.options
    out, folder = options.out, RunFolder(options.out)
    if folder.holds(TRAINING):
        return folder.training()
    record: dict[str, Any] = {
        "format": TRAINING_FORMAT,
        "kind": training.kind,
        "finished": False,
        "uuid": str(uuid.uuid4()),
        "model": training.name,
        "data": training.data.name,
        "metric": training.data.task.reported,
        "folder": str(out),
        "epochs": training.recipe.epochs,
        "seed": options.seed,
        "device": device,
        "images": {"training": len(split.training), "holdout": len(split.holdout), "test": len(training.data.test)},
        "accuracy_before": None,
        "recipe": {name: str(value) if value == math.inf else value for name, value in asdict(training.recipe).items()},
        "options": {**options.to_json(), "tracking_uri": mask_secrets(options.tracking_uri or "") or None},
        "command": command_line(),
        "versions": package_versions(),
        "tracking": None if options.no_mlflow else mask_uri(_store(options)),
    }
    _write(record, out)
    return record


def _write(record: Mapping[str, Any], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot make the folder {str(out)!r}: {error.strerror}. Name another with --out.") from error
    atomic_write_text(out / TRAINING, json.dumps(record, indent=1) + "\n")


def varied(recipe: Recipe, options: RunOptions) -> Recipe:
    """Returns a recipe with those of its values replaced that were given."""
    names = ("learning_rate", "batch_size", "weight_decay", "warmup_epochs", "label_smoothing")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(recipe, **given, mixed_precision=options.precision == "auto")


def split_of(data: DataBundle, options: RunOptions) -> Split:
    """Returns hold-out and training images; a search of the same seed holds the first of these out, too."""
    apart = data.validation is not None
    most = len(data.scoring) if apart else max(1, int(_HOLDOUT_SHARE * len(data.scoring)))
    holdout = options.holdout_images or min(HOLDOUT_IMAGES, most)
    return data.split(holdout=holdout, calibration=1, seed=derive_seed(options.seed, "split"))


def _last_good(training: Training) -> str:
    good = newest_checkpoint(training.options.out / CHECKPOINTS)
    if good is None:
        return "It had no good epoch."
    if training.kind != "train":
        return f"The last good checkpoint is {good}."
    return f"The last good checkpoint is {good}: start from it with --weights, a lower --learning-rate and a new --out."


def _store(options: RunOptions) -> str:
    """Returns the address of the MLflow store: SQLite in the folder of runs unless another is named."""
    place = options.out.resolve().parent
    # What is finetuned usually lies in a run folder, whose search is tracked beside that.
    place = place.parent if RunFolder(place).holds(SUMMARY) else place
    return named_store(options.tracking_uri) or default_store(place)


def _log(training: Training, record: Mapping[str, Any]) -> TrainingLog | None:
    options = training.options
    if options.no_mlflow:
        return None
    from autoprune.tracking.training_log import TrainingLog, TrainingRun

    own = (
        "model",
        "weights",
        "teacher",
        "teacher_model",
        "regulariser",
        "regulariser_strength",
        "holdout_images",
    )
    given = {name: value for name, value in record["options"].items() if name in own and value is not None}
    run = TrainingRun(
        uri=_store(options),
        experiment=f"autoprune {training.name}",
        name=options.out.resolve().name,
        uuid=record["uuid"],
        params={**given, **record["recipe"], "data": training.data.name, "seed": options.seed, "kind": training.kind},
        tags={"model": training.name},
    )
    return TrainingLog(run)


def _close(log: TrainingLog | None, record: Mapping[str, Any], observer: Observer, *, out: Path, status: str) -> None:
    if log is None:
        return
    figures = {
        "test_accuracy": record.get("accuracy"),
        "test_accuracy_before": record.get("accuracy_before"),
        "best_holdout_accuracy": (record.get("best") or {}).get("holdout_accuracy"),
        "seconds": record.get("seconds"),
    }
    known = {name: float(value) for name, value in figures.items() if value is not None}
    complaint = log.close(known, [out / TRAINING] if RunFolder(out).holds(TRAINING) else [], status=status)
    if complaint:
        observer.warning(complaint)
