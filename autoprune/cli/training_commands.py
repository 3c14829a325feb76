"""What `autoprune train` and `autoprune finetune` do: check, import what is heavy, call, show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.cli.work import driven, shown
from autoprune.config.layout import STRUCTURE, TRAINING, saved_folder
from autoprune.errors import AutopruneError, ConfigError, RunError, nearest

if TYPE_CHECKING:
    from autoprune.report.observer import Observer

#: What a resumed training may be told anew: who works for it, where things lie, where it is written down.
_RESUMABLE = ("device", "data_root", "tracking_uri", "no_mlflow", "workers", "ray_address")
#: {option of a training alone: whether a value may be, what it must be}.
_NUMBERS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "epochs": (lambda value: 0 < value < math.inf, "above 0"),
    "learning_rate": (lambda value: 0 < value < math.inf, "above 0"),
    "batch_size": (lambda value: value >= 1, "at least 1"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "at least 0"),
    "warmup_epochs": (lambda value: 0 <= value < math.inf, "at least 0"),
    "checkpoint_steps": (lambda value: value >= 1, "at least 1"),
    "label_smoothing": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "regulariser_strength": (lambda value: 0 <= value < math.inf, "at least 0"),
}
#: {recorded option that no check of a search concerns: its type}.
_OTHERS: Mapping[str, type] = {
    "weights": str,
    "source": str,
    "teacher": str,
    "teacher_model": str,
    "regulariser": str,
    "no_distillation": bool,
}
_DEFAULT_MODEL = "digits/resnet"


def train(given: Mapping[str, Any], *, resume: Path | None, as_json: bool) -> int:
    """Trains a network, or goes on with a training; shows the result and returns the exit code."""
    from autoprune.config.options import default_run_folder
    from autoprune.searching.trainings.options import TrainOptions, options_from

    if resume is not None:
        options = options_from(TrainOptions, _recorded("train", resume, given), out=resume)
    else:
        settings = _checked("train", {"model": _DEFAULT_MODEL, **given})
        if "regulariser_strength" in settings and "regulariser" not in settings:
            raise ConfigError("--regulariser-strength needs a regulariser. Name it with --regulariser.")
        settings |= _teacher(given)
        settings.setdefault("out", default_run_folder(f"{settings['model']}-training"))
        _require_new("train", settings["out"])
        options = TrainOptions(**settings)

    def work(observer: Observer) -> dict[str, Any]:
        from autoprune.searching.trainings.training import train_network

        return train_network(options, observer)

    return _driven(work, as_json=as_json)


def finetune(directory: Path | None, given: Mapping[str, Any], *, resume: Path | None, as_json: bool) -> int:
    """Finetunes a saved network, or goes on with that; shows the result and returns the exit code."""
    from autoprune.config.options import find_weights
    from autoprune.searching.trainings.options import FinetuneOptions, options_from

    if (directory is None) == (resume is None):
        raise ConfigError("Name the folder of a saved network, or one whose finetuning goes on with --resume DIR.")
    if resume is not None:
        options = options_from(FinetuneOptions, _recorded("finetune", resume, given), out=resume)
    else:
        assert directory is not None
        saved = saved_folder(directory)
        weights = given.get("weights")
        named = [name for name, value in (("--weights", weights), ("--teacher", given.get("teacher"))) if value]
        named += ["--no-distillation"] if given.get("no_distillation") else []
        if len(named) > 1:
            raise ConfigError(f"{' and '.join(named)} are different wishes of who teaches. Give one of them.")
        settings = _checked("finetune", {name: value for name, value in given.items() if name != "weights"})
        if weights is not None:
            settings["weights"] = find_weights(weights)
        settings |= _teacher(given)
        settings.setdefault("out", _beside(saved))
        if settings["out"].resolve() == saved.resolve():
            raise ConfigError(f"--out {str(settings['out'])!r} is the network that is finetuned. Name another folder.")
        _require_new("finetune", settings["out"])
        options = FinetuneOptions(**settings, source=saved)

    def work(observer: Observer) -> dict[str, Any]:
        from autoprune.searching.trainings.finetuning import finetune

        return finetune(options, observer)

    return _driven(work, as_json=as_json)


def _teacher(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns where the named teacher lies; nothing where none is named."""
    from autoprune.config.teachers import find_teacher

    place = find_teacher(given.get("teacher"), given.get("teacher_model"))
    return {} if place is None else {"teacher": place}


def _checked(command: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the checked options; paths and names by the rules of a search."""
    from autoprune.config.options import OPTIONS, check_options
    from autoprune.searching.trainings.options import PRECISIONS

    if "epochs" not in given:
        raise ConfigError(f"How long? Give --epochs, for example `autoprune {command} ... --epochs 20`.")
    for name, (holds, wanted) in _NUMBERS.items():
        value = given.get(name)
        # Written so that NaN fails, too.
        if value is not None and not holds(value):
            raise ConfigError(f"--{name.replace('_', '-')} is {value:g}, but must be {wanted}.")
    precision = given.get("precision", PRECISIONS[0])
    if precision not in PRECISIONS:
        raise ConfigError(f"Unknown --precision {precision!r}.{nearest(str(precision), PRECISIONS)}")
    shared = {name: value for name, value in given.items() if name in OPTIONS}
    own = {name: value for name, value in given.items() if name not in OPTIONS}
    if given.get("ray_address") is not None and given.get("workers", 1) < 2:
        raise ConfigError("--ray-address says where workers run. Give their number with --workers.")
    return {**check_options(shared, strategies=()), **own}


def _recorded(command: str, out: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of the training in a folder, with what may be told anew."""
    from autoprune.config.options import OPTIONS, check_options
    from autoprune.searching.inputs.run_folder import RunFolder

    extra = [OPTIONS[name].flag if name in OPTIONS else f"--{name.replace('_', '-')}" for name in given]
    extra = [flag for flag, name in zip(extra, given, strict=True) if name not in _RESUMABLE]
    if extra:
        raise ConfigError(f"--resume takes its options from the folder. Leave out {', '.join(extra)}.")
    record = RunFolder(out).training()
    if record["kind"] != command:
        raise RunError(
            f"{str(out)!r} was started by another command. Continue with: autoprune {record['kind']} --resume {out}"
        )
    changes = check_options(given, strategies=())
    changes = {name: value for name, value in changes.items() if name in given}
    return {**_believed(command, out, record["options"], changes), **changes}


def _believed(command: str, out: Path, recorded: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns recorded options, checked like those that a person writes: the folder may come from others."""
    from autoprune.config.options import CODE_OPTIONS
    from autoprune.plugins import require_foreign
    from autoprune.searching.inputs.recorded import recorded_store, without_other_store

    recorded = without_other_store(recorded, changes)
    known = {name: value for name, value in recorded.items() if value is not None and name not in ("out", *changes)}
    given = {name: value for name, value in known.items() if name not in _OTHERS}
    try:
        for name, kind in _OTHERS.items():
            if name in known and not isinstance(known[name], kind):
                raise ConfigError(f"{name} is {known[name]!r}.")
        checked = _checked(command, given)
        for name in CODE_OPTIONS:
            require_foreign(checked.get(name), out)
        require_foreign(known.get("teacher_model"), out)
        if "tracking_uri" in checked:
            checked["tracking_uri"] = recorded_store(checked["tracking_uri"], out)
    except (AutopruneError, TypeError, OverflowError) as error:
        raise RunError(f"The training in {str(out)!r} cannot go on with what its record says: {error}") from error
    # Nothing but numbers and texts are left, and a `--data-root` that the environment names is not what was recorded.
    return {name: checked[name] for name in checked if name in known} | {n: known[n] for n in _OTHERS if n in known}


def _require_new(command: str, out: Path) -> None:
    if (out / TRAINING).exists():
        raise ConfigError(
            f"{str(out)!r} already holds a training. Continue it with `autoprune {command} --resume {out}`, "
            "or name another folder with --out."
        )
    if command == "finetune" and (out / STRUCTURE).exists():
        raise ConfigError(f"{str(out)!r} already holds a network. Name another folder with --out.")


def _beside(saved: Path) -> Path:
    named = saved if saved.name not in ("", "..") else saved.resolve()
    return named.with_name(f"{named.name}-finetuned")


def _driven(work: Callable[[Observer], dict[str, Any]], *, as_json: bool) -> int:
    from autoprune.cli.render import show_training

    return shown(driven(work), show_training, as_json=as_json)
