"""Training a network that is named: from scratch or from weights, its weights saved as `--weights` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.seeds import derive_seed
from autoprune.data.bundle import DataBundle
from autoprune.data.sources import load_data
from autoprune.errors import ConfigError, DataError
from autoprune.models.zoo.catalogue import build_model, model_info
from autoprune.report.observer import Observer
from autoprune.searching.inputs.problems import Problem, is_unlabelled, require_fit
from autoprune.searching.trainings.options import TrainOptions
from autoprune.searching.trainings.run import Training, carry_out, varied
from autoprune.searching.trainings.teachers import named_teacher
from autoprune.tasks.base import Task
from autoprune.training.hooks import Hook
from autoprune.training.recipe import Recipe

WEIGHTS = "weights.safetensors"
_DISTILLATION = 0.9


def train_network(options: TrainOptions, observer: Observer) -> dict[str, Any]:
    """Trains a named network, or goes on with the training in its folder; returns the content of `training.json`.

    Raises:
        AutopruneError: whatever the caller can fix, in one line.
    """
    data = _load_data(options, observer)
    observer.stage(f"Building {options.model}")
    # A factory, and a torchvision network with foreign weights, decide on their classes themselves.
    classes = None if ":" in options.model else len(data.classes)
    # The initial weights come from torch's global generator, whose state is the caller's business.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(options.seed, "initial weights"))
        model = build_model(options.model, classes=classes, weights=options.weights)
    require_fit(Problem(options.model, options.model, classes, model, data))
    teacher: nn.Module | None = None
    if options.teacher is not None:
        teacher = named_teacher(options.teacher, model=options.teacher_model or options.model, data=data)

    def save(trained: nn.Module, report: Mapping[str, Any]) -> None:
        _save_weights(trained, options.out / WEIGHTS, report)

    training = Training(
        kind="train",
        name=options.model,
        options=options,
        recipe=_recipe(options, data.task),
        model=model,
        data=data,
        save=save,
        teacher=teacher,
        hooks=_regularisers(options),
        tests_before=options.weights is not None,
    )
    return carry_out(training, observer)


def _recipe(options: TrainOptions, task: Task) -> Recipe:
    """Returns the recipe of a training: SGD with a cosine, gentle where the network has been trained already.

    A rate of 0.1 at batch 128 with a weight decay of 5e-4 is the usual recipe of CIFAR networks with batch norm.
    """
    recipe = Recipe(
        epochs=options.epochs,
        learning_rate=task.learning_rate if options.weights is None else 0.1 * task.learning_rate,
        batch_size=task.batch_size,
        warmup_epochs=min(1.0, 0.1 * options.epochs),
        distillation=0.0 if options.teacher is None else _DISTILLATION,
        gradient_clip=task.gradient_clip,
    )
    return varied(recipe, options)


def _save_weights(model: nn.Module, path: Path, report: Mapping[str, Any]) -> None:
    """Writes a state dict that `--weights` reads.

    Raises:
        RunError: the file cannot be written.
    """
    from safetensors.torch import save

    from autoprune.report.files import atomic_write_bytes

    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    notes = {name: str(report[name]) for name in ("model", "data", "accuracy", "seed") if name in report}
    atomic_write_bytes(path, save(state, metadata=notes))


def _load_data(options: TrainOptions, observer: Observer) -> DataBundle:
    info = model_info(options.model)
    name = options.data or info.default_data
    if not name:
        raise ConfigError(f"Nothing is known of the data that {options.model!r} is meant for. Name them with --data.")
    observer.stage(f"Loading {name}")
    data = load_data(
        name, root=options.data_root, preprocessing=info.preprocessing, task=options.task, size=info.input_size
    )
    if is_unlabelled(data):
        raise DataError(f"{name!r} has no labels to train on. Name data with labels, such as imagefolder:DIR.")
    return data


def _regularisers(options: TrainOptions) -> tuple[Hook, ...]:
    if options.regulariser is None:
        return ()
    from autoprune.methods.regularisers import make_regulariser

    return (make_regulariser(options.regulariser, options.regulariser_strength),)
