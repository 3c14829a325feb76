"""Finetuning a saved network: loaded, trained with its dense network as teacher, saved in the same layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from autoprune.config.layout import saved_folder
from autoprune.data.bundle import DataBundle
from autoprune.models.storage.saved import SavedModel, kept_from_names, save_model
from autoprune.models.tracing.tracer import trace
from autoprune.report.observer import Observer
from autoprune.searching.inputs.dense import dense_network
from autoprune.searching.inputs.problems import Problem, is_unlabelled, named_by, require_fit, saved_problem
from autoprune.searching.trainings.options import FinetuneOptions
from autoprune.searching.trainings.run import Training, carry_out, split_of, varied
from autoprune.searching.trainings.teachers import named_teacher
from autoprune.training.features import FeatureDistillation
from autoprune.training.hooks import Hook
from autoprune.training.recipe import finetune_recipe


def finetune(options: FinetuneOptions, observer: Observer) -> dict[str, Any]:
    """Finetunes a saved network, or goes on with that; returns the content of `training.json`.

    Raises:
        AutopruneError: whatever the caller can fix, in one line.
    """
    folder = saved_folder(options.source)
    saved, problem = saved_problem(
        folder, data=options.data, data_root=options.data_root, task=options.task, observer=observer
    )
    data = problem.data
    dense: nn.Module | None = None
    if is_unlabelled(data) or not (options.no_distillation or options.teacher):
        alone = "" if is_unlabelled(data) else ", or train on the labels alone with --no-distillation"
        otherwise = f"Name its weights with --weights{alone}."
        dense = dense_network(folder, saved, options.weights, observer, otherwise=otherwise)
        data = named_by(dense, data, name="the dense network", observer=observer, device=options.device)
    teacher, hooks = _taught_by(dense, saved, data, options)
    recipe = varied(
        finetune_recipe(
            options.epochs,
            images=len(split_of(data, options).training),
            batch_size=data.task.batch_size,
            features=bool(hooks),
        ),
        options,
    )

    def save(trained: nn.Module, report: Mapping[str, Any]) -> None:
        figures = {name: report[name] for name in ("accuracy", "holdout_accuracy", "seed")}
        before = {"accuracy_before_finetune": report["accuracy_before"], "finetune_epochs": options.epochs}
        save_model(options.out, trained, replace(saved, info={**saved.info, **figures, **before}))

    training = Training(
        kind="finetune",
        name=saved.model or folder.name,
        options=options,
        recipe=recipe if teacher is not None else replace(recipe, distillation=0.0),
        model=problem.model,
        data=data,
        save=save,
        teacher=teacher,
        hooks=hooks,
        tests_before=True,
    )
    return carry_out(training, observer)


def _taught_by(
    dense: nn.Module | None, saved: SavedModel, data: DataBundle, options: FinetuneOptions
) -> tuple[nn.Module | None, tuple[Hook, ...]]:
    """Returns the teacher, and what holds features close to its own: only the dense network has the same channels."""
    if options.no_distillation:
        return None, ()
    if options.teacher is not None:
        named = options.teacher_model or saved.model
        return named_teacher(options.teacher, model=named, data=data), ()
    assert dense is not None
    require_fit(Problem("The dense network", saved.model, saved.classes, dense, data))
    network = trace(dense, data.train.take([0]))
    return dense, (FeatureDistillation.of(network, kept_from_names(network, saved.kept)),)
