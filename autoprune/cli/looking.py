"""The commands that look at a network or a run, or hand it on, and their options.

Each function returns the work to do instead of doing it: inside typer a Ctrl-C would end the process without a word.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli import commands, coverage_commands, export_commands, proxy_commands, report_commands
from autoprune.cli import export_parameters as e
from autoprune.cli import parameters as p
from autoprune.cli.work import Work, given_options


def trace(
    model: p.OptionalModelArgument = None,
    *,
    families: p.AllOf = None,
    out: p.CoverageFolder = None,
    budgets: p.Budgets = None,
    weights: p.Weights = None,
    data: p.Data = None,
    data_root: p.DataRoot = None,
    task: p.Task = None,
    scope: p.Scope = None,
    search_space: p.SearchSpace = None,
    verify: Annotated[
        bool,
        p.flag("--verify", "Check that cutting equals masking, and that counted costs equal computed ones."),
    ] = False,
    write: p.WriteSpace = None,
    multiple_of: p.MultipleOf = None,
    overwrite: p.Overwrite = False,
    as_json: p.PlainJson = False,
) -> Work:
    """Show what can be cut: groups, layers, their costs, and what each heuristic would keep."""
    given = given_options(
        locals(), besides=("families", "out", "verify", "write", "multiple_of", "overwrite", "as_json")
    )
    if families or out is not None:
        others = {"verify": verify or None, "write": write, "multiple_of": multiple_of, "overwrite": overwrite or None}
        given |= {name: value for name, value in others.items() if value is not None}
        return partial(coverage_commands.cover, families or (), given, out=out, as_json=as_json)
    target = commands.SpaceTarget(write, multiple_of=multiple_of, overwrite=overwrite)
    return partial(commands.trace, given, verify=verify, target=target, as_json=as_json)


def check_proxy(
    *,
    budgets: p.Budgets = None,
    structures: p.Structures = None,
    epochs: p.ProxyEpochs = None,
    min_tau: p.MinTau = None,
    twice: p.Twice = False,
    model: p.Model = None,
    weights: p.Weights = None,
    data: p.Data = None,
    data_root: p.DataRoot = None,
    scope: p.Scope = None,
    search_space: p.SearchSpace = None,
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
    as_json: p.Json = False,
) -> Work:
    """Measure how well each cheap score ranks structures, against a finetune, on your own network and data."""
    written = locals()
    own = ("structures", "epochs", "min_tau", "twice")
    asked = {name: written[name] for name in own if written[name] is not None}
    return partial(
        proxy_commands.check_proxy, given_options(written, besides=(*own, "as_json")), asked=asked, as_json=as_json
    )


def cost(
    model: p.ModelArgument,
    *,
    widths: Annotated[
        Path,
        typer.Option(
            metavar="FILE", show_default=False, help="JSON: a list of widths, a mapping by group, or a structure.json."
        ),
    ],
    convention: p.Convention = None,
    data: p.Data = None,
    data_root: p.DataRoot = None,
    as_json: p.PlainJson = False,
) -> Work:
    """Count the MACs, FLOPs and parameters of a network with other widths."""
    given = given_options(locals(), besides=("widths", "convention", "as_json"))
    return partial(commands.cost, given, widths, convention=convention, as_json=as_json)


def evaluate(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", show_default=False, help="A run folder, or the incumbent/ folder in it.")
    ],
    *,
    data: p.Data = None,
    data_root: p.DataRoot = None,
    task: p.Task = None,
    device: p.Device = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="test, holdout or train.")] = "test",
    as_json: p.PlainJson = False,
) -> Work:
    """Measure a saved network on a data split."""
    given = given_options(locals(), besides=("directory", "split", "as_json"))
    return partial(commands.evaluate, directory, given=given, split=split, as_json=as_json)


def pick(
    run: Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="The run folder of a search.")],
    *,
    number: Annotated[int | None, typer.Option("--id", metavar="N", show_default=False, help="This candidate.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="LIMIT", show_default=False, help="The most accurate within this, such as 40%flops."),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(metavar="SHARE", show_default=False, help="The cheapest with this hold-out accuracy, e.g. 0.92."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default=False, help="Where to save it. (default: RUN/picked-N)")
    ] = None,
    finetune_epochs: Annotated[
        float, typer.Option(metavar="N", help="Epochs of finetuning with distillation from the dense network.")
    ] = 0.0,
    register: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False, help="Register it in MLflow's model registry, as NAME@champion."
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URI", show_default=False, help="MLflow store. (default: the search's)")
    ] = None,
    no_mlflow: Annotated[bool, p.flag("--no-mlflow", "Do not write the network to MLflow.")] = False,
    as_json: p.PlainJson = False,
) -> Work:
    """Take a candidate of a search: cut it again, finetune it if asked, test and save it, log it to MLflow."""
    chosen = {"id": number, "budget": budget, "min_accuracy": min_accuracy}
    wanted = {"register": register, "tracking_uri": tracking_uri, "no_mlflow": no_mlflow}
    return partial(report_commands.pick, run, chosen, wanted, out=out, finetune_epochs=finetune_epochs, as_json=as_json)


def export(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", show_default=False, help="A run folder, or the folder of a saved network."),
    ],
    *,
    formats: e.Formats = None,
    out: e.Out = None,
    batch: e.Batch = "dynamic",
    opset: e.Opset = None,
    with_preprocessing: e.WithPreprocessing = False,
    as_json: p.PlainJson = False,
) -> Work:
    """Export a saved network to ONNX, torch.export, TorchScript or safetensors; each file is compared with it."""
    settings = {"out": out, "opset": opset, "with_preprocessing": with_preprocessing}
    return partial(export_commands.export, directory, formats or (), settings=settings, batch=batch, as_json=as_json)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="A run folder of any command.")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="The page. (default: RUN/report.html)")
    ] = None,
    latency: Annotated[bool, p.flag("--latency", "Measure dense and pruned network on this machine, too.")] = False,
    repeats: Annotated[
        list[Path] | None,
        typer.Option(
            "--repeat",
            metavar="RUN",
            show_default=False,
            help="The same search with another seed, for error bars; repeatable.",
        ),
    ] = None,
    optuna: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Add the search as a study to this Optuna journal."),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="Add the search to TensorBoard's logs in this folder."),
    ] = None,
    as_json: p.PlainJson = False,
) -> Work:
    """Write a report of a run: one page to read or to send, and its pictures as SVG and PNG files."""
    return partial(
        report_commands.report,
        run,
        out=out,
        latency=latency,
        repeats=repeats or (),
        optuna=optuna,
        tensorboard=tensorboard,
        as_json=as_json,
    )


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", show_default=False, help="Run folders.")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="The page. (default: compare.html)")
    ] = None,
    as_json: p.PlainJson = False,
) -> Work:
    """Compare several runs: one table, and one page with their fronts and their progress."""
    return partial(report_commands.compare, runs, out=out, as_json=as_json)


def ui(
    run: Annotated[
        Path,
        typer.Argument(metavar="DIR", show_default=False, help="A run folder, or the folder of runs. (default: runs)"),
    ] = Path("runs"),
    *,
    port: Annotated[int, typer.Option(metavar="N", help="Port on 127.0.0.1.")] = 5000,
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="MLflow store. (default: mlflow.db in or beside DIR)")
    ] = None,
) -> Work:
    """Open the searches in MLflow's web page, on this machine only."""
    return partial(commands.ui, run, port=port, tracking_uri=tracking_uri)


def version(*, as_json: p.PlainJson = False) -> Work:
    """Print the versions of autoprune and of what it stands on."""
    return partial(commands.print_version, as_json=as_json)
