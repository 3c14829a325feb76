"""The commands that make a network, and their options: search, prune, experiment, train, finetune.

Each function returns the work to do instead of doing it: inside typer a Ctrl-C would end the process without a word.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli import commands, pruning_commands, training_commands
from autoprune.cli import parameters as p
from autoprune.cli import training_parameters as t
from autoprune.cli.work import Work, given_options


def search(
    *,
    budgets: p.Budgets = None,
    front: p.Front = None,
    latency_batch: p.LatencyBatch = None,
    latency_threads: p.LatencyThreads = None,
    finetune_epochs: p.FinetuneEpochs = None,
    model: p.Model = None,
    weights: p.Weights = None,
    data: p.Data = None,
    data_root: p.DataRoot = None,
    task: p.Task = None,
    scope: p.Scope = None,
    search_space: p.SearchSpace = None,
    strategy: p.Strategy = None,
    candidates: p.Candidates = None,
    time_limit: p.TimeLimit = None,
    evaluation_timeout: p.EvaluationTimeout = None,
    seed: p.Seed = None,
    channels: p.Channels = None,
    calibration_images: p.CalibrationImages = None,
    holdout_images: p.HoldoutImages = None,
    backend: p.Backend = None,
    workers: p.Workers = None,
    gpus_per_worker: p.GpusPerWorker = None,
    ray_address: p.RayAddress = None,
    device: p.Device = None,
    out: p.Out = None,
    resume: p.Resume = None,
    experiment: p.Experiment = None,
    tracking_uri: p.TrackingUri = None,
    no_mlflow: p.NoMlflow = False,
    as_json: p.Json = False,
) -> Work:
    """Search for the best widths within a budget, and save the network that has them."""
    given = given_options(locals(), besides=("resume", "experiment", "as_json"))
    if resume is not None:
        return partial(commands.resume, resume, given=given, experiment=experiment, as_json=as_json)
    return partial(commands.search, given, experiment=experiment, as_json=as_json)


def prune(
    *,
    method: p.Method = None,
    budgets: p.Budgets = None,
    latency_batch: p.LatencyBatch = None,
    latency_threads: p.LatencyThreads = None,
    as_published: p.AsPublished = False,
    settings: p.MethodSettings = None,
    merge: p.MergeName = None,
    epochs: p.MethodEpochs = None,
    finetune_epochs: p.FinetuneEpochs = None,
    no_training: p.NoTraining = False,
    list_methods: p.ListMethods = False,
    model: p.Model = None,
    weights: p.Weights = None,
    data: p.Data = None,
    data_root: p.DataRoot = None,
    task: p.Task = None,
    scope: p.Scope = None,
    search_space: p.SearchSpace = None,
    seed: p.Seed = None,
    channels: p.Channels = None,
    calibration_images: p.CalibrationImages = None,
    holdout_images: p.HoldoutImages = None,
    device: p.Device = None,
    out: p.Out = None,
    as_json: p.Json = False,
) -> Work:
    """Prune by one method, without a search: choose channels, cut, test and save."""
    written = locals()
    own = ("method", "as_published", "merge", "epochs", "no_training")
    given = given_options(written, besides=(*own, "settings", "list_methods", "as_json"))
    chosen = {name: written[name] for name in own if written[name] is not None}
    return partial(
        pruning_commands.prune,
        given,
        chosen=chosen,
        settings=settings or (),
        list_methods=list_methods,
        as_json=as_json,
    )


def experiment(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", show_default=False, help="An experiment file, or the name of a shipped one."),
    ] = None,
    *,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", metavar="N", help="Repeat it for several seeds. (default: the file's)")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the results file goes. (default: results/ beside FILE, here for one of an installed autoprune)",
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Print the results files of a folder as Markdown tables instead.")
    ] = None,
    as_json: p.PlainJson = False,
) -> Work:
    """Run an experiment file and write its results file; a comparison that was stopped goes on where it was."""
    return partial(pruning_commands.experiment, file, seeds=seeds or (), results=results, table=table, as_json=as_json)


def train(
    *,
    model: p.Model = None,
    epochs: t.Epochs = None,
    weights: t.StartWeights = None,
    data: p.Data = None,
    data_root: p.DataRoot = None,
    task: p.Task = None,
    learning_rate: t.LearningRate = None,
    batch_size: t.BatchSize = None,
    weight_decay: t.WeightDecay = None,
    warmup_epochs: t.WarmupEpochs = None,
    label_smoothing: t.LabelSmoothing = None,
    precision: t.Precision = None,
    regulariser: t.Regulariser = None,
    regulariser_strength: t.RegulariserStrength = None,
    teacher: t.Teacher = None,
    teacher_model: t.TeacherModel = None,
    holdout_images: t.HoldoutImages = None,
    checkpoint_steps: t.CheckpointSteps = None,
    seed: p.Seed = None,
    device: p.Device = None,
    out: p.Out = None,
    resume: t.Resume = None,
    tracking_uri: p.TrackingUri = None,
    no_mlflow: p.NoMlflow = False,
    as_json: p.Json = False,
) -> Work:
    """Train a network, from scratch or from weights; a training that was killed goes on with --resume."""
    given = given_options(locals(), besides=("resume", "as_json"))
    return partial(training_commands.train, given, resume=resume, as_json=as_json)


def finetune(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", show_default=False, help="A run folder, or the folder of a saved network."),
    ] = None,
    *,
    epochs: t.Epochs = None,
    weights: t.DenseWeights = None,
    teacher: t.OtherTeacher = None,
    teacher_model: t.TeacherModel = None,
    no_distillation: t.NoDistillation = False,
    data: p.Data = None,
    data_root: p.DataRoot = None,
    task: p.Task = None,
    learning_rate: t.LearningRate = None,
    batch_size: t.BatchSize = None,
    weight_decay: t.WeightDecay = None,
    warmup_epochs: t.WarmupEpochs = None,
    label_smoothing: t.LabelSmoothing = None,
    precision: t.Precision = None,
    holdout_images: t.HoldoutImages = None,
    checkpoint_steps: t.CheckpointSteps = None,
    seed: p.Seed = None,
    device: p.Device = None,
    workers: t.Workers = None,
    ray_address: t.RayAddress = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default=False, help="Where to. (default: NAME-finetuned beside)")
    ] = None,
    resume: t.Resume = None,
    tracking_uri: p.TrackingUri = None,
    no_mlflow: p.NoMlflow = False,
    as_json: p.Json = False,
) -> Work:
    """Finetune a saved network with its dense network as teacher, and save it in the same layout."""
    given = given_options(locals(), besides=("directory", "resume", "as_json"))
    return partial(training_commands.finetune, directory, given, resume=resume, as_json=as_json)
