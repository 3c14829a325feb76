"""Finetuning a saved network: loaded, trained with its dense network as teacher, saved in the same layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.config.options import LEDGER_NAME, WEIGHTS_ROOT_VARIABLE
from autoprune.data.preprocessing import Preprocessing
from autoprune.data.sources import load_data
from autoprune.errors import AutopruneError, ConfigError, DataError, RunError
from autoprune.models.saved import STRUCTURE, SavedModel, load, read_saved, save_model
from autoprune.models.weights import sha256_of, state_fingerprint
from autoprune.models.zoo import build_model
from autoprune.plugins import require_foreign
from autoprune.report.observer import Observer
from autoprune.searching.inspect import recorded_root, recorded_task
from autoprune.searching.preparation import Problem, require_fit
from autoprune.searching.results import INCUMBENT
from autoprune.searching.training import Task, carry_out, varied
from autoprune.searching.training_options import FinetuneOptions
from autoprune.study.ledger import read_ledger, run_of
from autoprune.training.default import embedded_model, is_embedded
from autoprune.training.recipe import finetune_recipe


def saved_folder(directory: Path) -> Path:
    """Returns the folder of the saved network: the named one, or the incumbent in a run folder.

    Raises:
        RunError: there is none.
    """
    for folder in (directory, directory / INCUMBENT):
        if (folder / STRUCTURE).is_file():
            return folder
    raise RunError(f"{str(directory)!r} holds no saved network: neither {STRUCTURE} nor {INCUMBENT}/{STRUCTURE}.")


def finetune(options: FinetuneOptions, observer: Observer) -> dict[str, Any]:
    """Finetunes a saved network, or goes on with that; returns the content of `training.json`.

    Raises:
        AutopruneError: whatever the caller can fix, in one line.
    """
    folder = saved_folder(options.source)
    saved = read_saved(folder)
    name = options.data or saved.dense.get("data")
    if not isinstance(name, str):
        raise DataError(f"{str(folder)!r} does not say what data it is for. Name them with --data.")
    if options.data is None:
        require_foreign(name, folder)
    observer.stage(f"Loading {name}")
    preprocessing = None if saved.preprocessing is None else Preprocessing.from_dict(saved.preprocessing)
    data = load_data(
        name,
        root=options.data_root or recorded_root(folder),
        preprocessing=preprocessing,
        task=options.task or recorded_task(saved, folder),
    )
    observer.stage(f"Loading {folder}")
    model = load(folder)
    require_fit(Problem(f"The network in {str(folder)!r}", saved.model, saved.classes, model, data))
    teacher = None if options.no_distillation else dense_network(folder, saved, options.weights, observer)
    if teacher is not None:
        require_fit(Problem("The dense network", saved.model, saved.classes, teacher, data))
    recipe = varied(finetune_recipe(options.epochs, batch_size=data.task.batch_size), options)

    def save(trained: nn.Module, report: Mapping[str, Any]) -> None:
        figures = {name: report[name] for name in ("accuracy", "holdout_accuracy", "seed")}
        before = {"accuracy_before_finetune": report["accuracy_before"], "finetune_epochs": options.epochs}
        save_model(options.out, trained, replace(saved, info={**saved.info, **figures, **before}))

    task = Task(
        kind="finetune",
        name=saved.model or folder.name,
        options=options,
        recipe=recipe if teacher is not None else replace(recipe, distillation=0.0),
        model=model,
        data=data,
        save=save,
        teacher=teacher,
        tests_before=True,
    )
    return carry_out(task, observer)


def dense_network(folder: Path, saved: SavedModel, weights: Path | None, observer: Observer) -> nn.Module:
    """Returns the network that a saved one was cut from.

    Args:
        folder: of the saved network.
        saved: its description.
        weights: the dense weights; None to look for them where the search found them, and where weights usually lie.
        observer: hears of weights other than the recorded ones.

    Raises:
        ConfigError: they are not found.
    """
    if saved.model is None:
        raise ConfigError(f"{str(folder)!r} was cut from a network object. Leave it out with --no-distillation.")
    sha = saved.dense.get("sha256")
    if weights is not None:
        if sha is not None and sha256_of(weights) != sha:
            observer.warning(f"{weights} is not the file that {folder} was cut from; it teaches all the same.")
        return build_model(saved.model, classes=saved.classes, weights=weights)
    for path in _places(folder, saved):
        if path.is_file() and sha256_of(path) == sha:
            return build_model(saved.model, classes=saved.classes, weights=path)
    if is_embedded(saved.model) and sha is None:
        model = embedded_model(saved.model, on_progress=observer.progress)
        if state_fingerprint(model) == saved.dense.get("fingerprint"):
            return model
    named = saved.dense.get("weights")
    what = f"The dense weights {named!r}" if named else "The dense weights"
    raise ConfigError(
        f"{what} that {str(folder)!r} was cut from are not found. Name them with --weights, or train on the labels "
        "alone with --no-distillation."
    )


def _places(folder: Path, saved: SavedModel) -> Iterator[Path]:
    """Yields where the dense weights may lie; whether a file is the one, its checksum says."""
    recorded: Any = None
    # Not every saved network lies in the folder of a search.
    with suppress(AutopruneError, OSError, KeyError, TypeError):
        recorded = run_of(read_ledger(folder.parent / LEDGER_NAME))["options"]["weights"]
    if isinstance(recorded, str):
        yield Path(recorded)
    name = saved.dense.get("weights")
    # A name and no path: the file of a stranger does not choose where this one looks.
    if isinstance(name, str) and name == Path(name).name and "\0" not in name:
        root = os.environ.get(WEIGHTS_ROOT_VARIABLE)
        places = [Path(root)] if root else []
        yield from (place / name for place in (*places, Path(), folder, folder.parent))
