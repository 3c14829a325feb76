"""Runs a search from options to results."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune.backends import RayBackend, SerialBackend
from autoprune.config.options import LEDGER_NAME, default_run_folder
from autoprune.core.candidate import Evaluation
from autoprune.core.front import ParetoFront
from autoprune.core.seams import Backend, BackendReport, Tracker
from autoprune.errors import ConfigError, RunError, nearest
from autoprune.report.files import atomic_write_text, write_front_csv
from autoprune.report.front_html import marks_of, write_front_html
from autoprune.report.observer import NullObserver, Observer
from autoprune.report.rows import candidate_rows, front_rows
from autoprune.searching.finish import Finisher, cost_entry, describe, describe_candidate, save_finished
from autoprune.searching.options import SearchOptions
from autoprune.searching.preparation import (
    Prepared,
    Problem,
    load_problem,
    prepare,
    problem_from,
    torch_threads,
    usable_cores,
)
from autoprune.strategies.registry import make_strategy
from autoprune.study.ledger import Ledger, read_ledger, run_of
from autoprune.study.replay import replay
from autoprune.study.study import Study
from autoprune.tracking.uris import default_store, mask_uri
from autoprune.training.measure import measure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprune.tracking.mlflow_tracker import MlflowTracker

SUMMARY, FRONT_CSV, FRONT_HTML, INCUMBENT = "summary.json", "front.csv", "front.html", "incumbent"
#: Hypervolume is measured against nothing right at the dense cost.
REFERENCE_POINT = (0.0, 1.0)
DEFAULT_FINETUNE_EPOCHS = 1.0
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
_PACKAGES = ("autoprune", "torch", "torchvision", "numpy", "ray", "optuna", "pymoo", "mlflow", "scikit-learn")


@dataclass(frozen=True, eq=False)
class Incumbent:
    """The best network of a search.

    Attributes:
        evaluation: on the hold-out.
        directory: where it is saved, None if the search was interrupted.
        widths: {group: kept channels}.
    """

    evaluation: Evaluation
    directory: Path | None
    widths: Mapping[str, int]
    _model: nn.Module | None = None

    def build(self) -> nn.Module:
        """Returns the network, in eval mode on the CPU.

        Raises:
            RunError: the search was interrupted before it was built.
        """
        if self._model is None:
            raise RunError("The search was interrupted before the incumbent was built. Resume it first.")
        return self._model


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        summary: the content of `summary.json`.
        out: the run folder.
        front: evaluations that no other dominates, cheapest first.
        incumbent: the best within budget, None if nothing could be evaluated.
    """

    summary: Mapping[str, Any]
    out: Path
    front: ParetoFront
    incumbent: Incumbent | None


def search(
    model: nn.Module | str, data: Any = None, *, budget: str | Sequence[str] = "50%flops", **options: Any
) -> SearchResult:
    """Searches from Python; everything else is an option of `SearchOptions`, by name.

    Args:
        model: the dense network, or a name such as `cifar/resnet20-b`.
        data: a name, a pair (training set, test set) of torch data sets or loaders, or a `DataBundle`.
        budget: what may remain, or several budgets that must all hold.
        **options: fields of `SearchOptions`, and `observer`.

    Raises:
        AutopruneError: whatever can be fixed by the caller, in one line.
    """
    observer = options.pop("observer", None) or NullObserver()
    known = [field.name for field in fields(SearchOptions)]
    for name in options:
        if name not in known:
            raise ConfigError(f"Unknown option {name!r} of autoprune.search.{nearest(name, known)}")
    budgets = (budget,) if isinstance(budget, str) else tuple(budget)
    paths = {name: Path(options[name]) for name in ("weights", "data_root", "out") if options.get(name) is not None}
    asked = SearchOptions(
        **{"budgets": budgets, "model": model if isinstance(model, str) else None, **options, **paths}
    )
    problem = problem_from(model, data, asked, observer)
    return _run(problem, replace(asked, data=problem.data.name), observer)


def run_search(options: SearchOptions, *, observer: Observer) -> SearchResult:
    """Runs a search that is described by names alone."""
    return _run(load_problem(options, observer), options, observer)


def resume_search(out: Path, *, observer: Observer) -> SearchResult:
    """Goes on with the search in a run folder.

    Raises:
        RunError: the folder holds no search, or one that these versions or files do not reproduce.
    """
    options = SearchOptions.from_json(run_of(read_ledger(out / LEDGER_NAME)).get("options", {}))
    return run_search(replace(options, out=out), observer=observer)


def _run(problem: Problem, options: SearchOptions, observer: Observer) -> SearchResult:
    out = options.out or default_run_folder(problem.name, datetime.now())
    options = replace(options, out=out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"Cannot make the run folder {str(out)!r}: {error.strerror}. Name another with --out."
        ) from error
    prepared = prepare(problem, options, observer)
    header = _header(prepared, out)
    started = time.perf_counter()
    with Ledger(out / LEDGER_NAME, run=header) as ledger, _mlflow(prepared, header, out) as mlflow:
        trackers: list[Tracker] = [ledger, observer]
        if mlflow is not None:
            trackers.append(mlflow)
        study = _study(prepared, trackers)
        replayed = replay(ledger.events, study, heard_by=[item for item in trackers if item is not ledger])
        if replayed.outcomes:
            observer.stage(f"Resuming after {replayed.outcomes} evaluations")
        observer.stage(f"Searching {problem.name} within {' and '.join(options.goals)}")
        deadline = None if options.time_limit is None else time.monotonic() + options.time_limit
        report = _backend(prepared).run(
            study, prepared.factory(), should_stop=lambda: deadline is not None and time.monotonic() > deadline
        )
        timed_out = deadline is not None and time.monotonic() > deadline
        interrupted = report.interrupted and not timed_out
        result = _conclude(prepared, study, report, observer, interrupted=interrupted, started=started, mlflow=mlflow)
        if mlflow is not None:
            _close_mlflow(mlflow, result, observer, interrupted=interrupted)
        return result


def _header(prepared: Prepared, out: Path) -> dict[str, Any]:
    """Returns the ledger's header; a resumed search keeps the identity it was given at first."""
    header = prepared.header()
    path = out / LEDGER_NAME
    identity = str(uuid.uuid4())
    if path.exists() and path.stat().st_size:
        before = run_of(read_ledger(path))
        identity = str(before.get("uuid", identity))
        # Where the folder lies does not matter: it may have been moved.
        header["options"] = {**header["options"], "out": before.get("options", {}).get("out")}
    return {**header, "uuid": identity}


def _study(prepared: Prepared, trackers: Sequence[Tracker]) -> Study:
    options, space = prepared.options, prepared.space
    strategy = make_strategy(
        options.strategy, space=space, profile=prepared.profile, seed=options.seed, candidates=options.candidates
    )
    return Study(
        space,
        strategy,
        prepared.ladder,
        candidates=options.candidates,
        seed=options.seed,
        baselines=[("uniform", space.uniform())],
        trackers=trackers,
    )


def _backend(prepared: Prepared) -> Backend:
    options = prepared.options
    if options.backend == "serial":
        return SerialBackend()
    import torch

    on_gpu = prepared.device.startswith("cuda")
    gpus = max(1, torch.cuda.device_count()) if on_gpu else 0
    workers = options.workers or (2 * gpus if on_gpu else usable_cores())
    share = options.gpus_per_worker or (gpus / workers if on_gpu else 0.0)
    return RayBackend(workers, gpus_per_worker=share, address=options.ray_address)


def _conclude(
    prepared: Prepared,
    study: Study,
    report: BackendReport,
    observer: Observer,
    *,
    interrupted: bool,
    started: float,
    mlflow: MlflowTracker | None,
) -> SearchResult:
    """Finishes uniform and incumbent unless interrupted, and writes everything there is."""
    options, out = prepared.options, prepared.options.out
    assert out is not None
    incumbent, uniform = study.incumbent, _uniform(study)
    summary = _summary(prepared, study, report, interrupted=interrupted)
    built: Incumbent | None = None
    if incumbent is not None:
        summary["incumbent"] = describe_candidate(incumbent, prepared)
        built = Incumbent(incumbent, None, summary["incumbent"]["widths"])
    if uniform is not None:
        summary["uniform"] = describe_candidate(uniform, prepared)
    if study.stopped_because:
        summary["notes"].append(f"The search stopped early: {study.stopped_because}")
    if incumbent is not None and not interrupted:
        with torch_threads(usable_cores()):
            built = _finish(prepared, study, observer, summary, incumbent=incumbent, uniform=uniform)
    summary["seconds"] = time.perf_counter() - started
    if mlflow is not None:
        location = mlflow.location(seconds=20.0)
        summary["tracking"] = (
            None
            if location is None
            else {
                "uri": mask_uri(_store(prepared)),
                "experiment_id": location.experiment_id,
                "run_id": location.run_id,
                "view_id": location.view_id,
            }
        )
    rows = candidate_rows(
        study.evaluations,
        groups=prepared.network.groups,
        dense=prepared.network.cost_model.dense,
        front_ids={evaluation.candidate.id for evaluation in study.front},
    )
    write_front_csv(out / FRONT_CSV, front_rows(rows))
    write_front_html(
        out / FRONT_HTML,
        rows,
        marks=marks_of(summary),
        budget=options.goals,
        dense_widths={group.name: group.width for group in prepared.network.groups},
        title=f"{prepared.problem.name} on {prepared.problem.data.name}",
        run=str(out),
    )
    atomic_write_text(out / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return SearchResult(summary, out, study.front, built)


def _finish(
    prepared: Prepared,
    study: Study,
    observer: Observer,
    summary: dict[str, Any],
    *,
    incumbent: Evaluation,
    uniform: Evaluation | None,
) -> Incumbent:
    """Tests dense, uniform and incumbent, saves the incumbent, and fills the summary in."""
    options, data = prepared.options, prepared.problem.data
    observer.stage("Testing the dense network")
    summary["dense"]["accuracy"] = measure(prepared.problem.model, data.test, device=prepared.device).accuracy
    finisher = Finisher(prepared, observer, epochs=summary["finetune_epochs"])
    if uniform is not None and uniform.candidate.id != incumbent.candidate.id:
        summary["uniform"] = describe(finisher.finish("uniform widths", uniform), prepared)
    finished = finisher.finish("the incumbent", incumbent)
    summary["incumbent"] = describe(finished, prepared)
    if uniform is not None and uniform.candidate.id == incumbent.candidate.id:
        summary["uniform"] = summary["incumbent"]
        summary["notes"].append("No candidate beat uniform widths on the hold-out.")
    assert options.out is not None
    directory = options.out / INCUMBENT
    info = {key: summary["incumbent"][key] for key in ("accuracy", "holdout_accuracy", "proposed_by", "id")}
    info.update({"budget": list(options.goals), "seed": options.seed, "finetune_epochs": summary["finetune_epochs"]})
    save_finished(directory, finished, prepared, info=info)
    prepared.problem.model.cpu()
    return Incumbent(incumbent, directory, summary["incumbent"]["widths"], finished.model)


def _uniform(study: Study) -> Evaluation | None:
    found = [item for item in study.ladder_of(0) if isinstance(item, Evaluation)] if study.proposed else []
    return found[-1] if found else None


def _summary(prepared: Prepared, study: Study, report: BackendReport, *, interrupted: bool) -> dict[str, Any]:
    options, network, split = prepared.options, prepared.network, prepared.split
    dense = network.cost_model.dense
    epochs = DEFAULT_FINETUNE_EPOCHS if options.finetune_epochs is None else options.finetune_epochs
    best = study.front.evaluations[-1].candidate.fidelity.name if len(study.front) else "-"
    notes = [f"Hold-out accuracies are of the {best} fidelity, on {len(split.holdout)} images of the training set."]
    if options.weights is not None or prepared.problem.spec is None:
        notes.append("The dense network was trained elsewhere and may have seen the hold-out images.")
    return {
        "format": 1,
        "folder": str(options.out),
        "model": prepared.problem.name,
        "data": prepared.problem.data.name,
        "budget": list(options.goals),
        "scope": options.scope,
        "strategy": options.strategy,
        "seed": options.seed,
        "dense": {"accuracy": None, **cost_entry(dense)},
        "uniform": None,
        "incumbent": None,
        "groups": [{"name": g.name, "width": g.width, "coupled": g.coupled} for g in network.groups],
        "frozen": dict(network.frozen),
        "candidates": study.proposed,
        "failures": len(study.failures),
        "seconds": 0.0,
        "search_seconds": report.seconds,
        "utilisation": report.utilisation,
        "workers": report.workers,
        "hypervolume": study.front.hypervolume(dense.macs, REFERENCE_POINT),
        "reference_point": list(REFERENCE_POINT),
        "finetune_epochs": epochs,
        "images": {
            "calibration": len(split.calibration),
            "holdout": len(split.holdout),
            "training": len(split.training),
            "test": len(prepared.problem.data.test),
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "command": shlex.join(["autoprune", *sys.argv[1:]]) if Path(sys.argv[0]).name == "autoprune" else None,
        "notes": notes,
        "interrupted": interrupted,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _store(prepared: Prepared) -> str:
    """Returns the address of the MLflow store: SQLite beside the run folder unless another is named."""
    options = prepared.options
    assert options.out is not None
    return options.tracking_uri or os.environ.get(TRACKING_VARIABLE) or default_store(options.out.resolve().parent)


@contextmanager
def _mlflow(prepared: Prepared, header: Mapping[str, Any], out: Path) -> Iterator[MlflowTracker | None]:
    """Yields the MLflow tracker, closed whatever happens; None where MLflow is not wanted."""
    options = prepared.options
    if options.no_mlflow:
        yield None
        return
    from autoprune.tracking.mlflow_tracker import MlflowTracker

    tracker = MlflowTracker(
        tracking_uri=_store(prepared),
        experiment=f"autoprune {prepared.problem.name}",
        run_name=out.name,
        run_uuid=str(header["uuid"]),
        dense_cost=prepared.network.cost_model.dense,
        groups=prepared.network.groups,
        params={
            "budget": " ".join(options.goals),
            "strategy": options.strategy,
            "scope": options.scope,
            "seed": options.seed,
            "candidates": options.candidates,
            "data": prepared.problem.data.name,
        },
        tags={"model": prepared.problem.name},
    )
    try:
        yield tracker
    finally:
        tracker.close(interrupted=True)


def _close_mlflow(tracker: MlflowTracker, result: SearchResult, observer: Observer, *, interrupted: bool) -> None:
    names = (SUMMARY, FRONT_CSV, FRONT_HTML, INCUMBENT)
    files = {name: result.out / name for name in names if (result.out / name).exists()}
    front = {evaluation.candidate.id for evaluation in result.front}
    complaint = tracker.close(result.summary, files, front, interrupted=interrupted)
    if complaint:
        observer.warning(complaint)
