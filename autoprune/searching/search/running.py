"""One search from its problem to its results: ledger, trackers, study, backend, finish."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune.config.layout import CHECKPOINTS, FRONT_CSV, FRONT_HTML, INCUMBENT, LEDGER, SUMMARY
from autoprune.config.options import default_run_folder, holds_search
from autoprune.core.candidate import Candidate, Evaluation, Outcome
from autoprune.core.files import require_inside
from autoprune.core.seams import BackendReport, Strategy, Tracker
from autoprune.errors import RunError
from autoprune.report.observer import Observer
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import Problem
from autoprune.searching.inputs.run_folder import RunFolder
from autoprune.searching.latency.timing import torch_threads
from autoprune.searching.search.finish import Finisher, describe, figures, save_finished
from autoprune.searching.search.latency import latency_entry
from autoprune.searching.search.preparation import Prepared, prepare, useful_threads
from autoprune.searching.search.results import summarise, uniform_of, write_results
from autoprune.searching.search.resuming import going_on
from autoprune.searching.search.workers import evaluated, require_cores
from autoprune.strategies.registry import make_strategy
from autoprune.study.ledger import Held, Ledger, read_held, read_ledger
from autoprune.study.lock import FolderLock
from autoprune.study.replay import replay
from autoprune.study.study import Study
from autoprune.tracking.stores import require_usable
from autoprune.tracking.uris import default_store, mask_uri, named_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprune.tracking.mlflow_tracker import MlflowTracker


@dataclass(frozen=True, eq=False)
class Concluded:
    """A search that has ended.

    Attributes:
        out: the run folder.
        summary: the content of `summary.json`.
        study: with every evaluation.
        model: the finished incumbent; None where there is none or the search was interrupted.
    """

    out: Path
    summary: dict[str, Any]
    study: Study
    model: nn.Module | None


def placed(options: SearchOptions, name: str | None) -> SearchOptions:
    """Returns the options with a run folder; found out before anything is loaded or trained, it can be written to.

    Raises:
        RunError: nothing can be written there.
    """
    out = options.out or default_run_folder(name)
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise RunError(f"The run folder {str(out)!r} cannot be written: see {str(place)!r}. Name another with --out.")
    return replace(options, out=out)


def run(problem: Problem, options: SearchOptions, observer: Observer) -> Concluded:
    """Runs a search, or goes on with the one in the run folder, to its end or interruption.

    Raises:
        AutopruneError: something the caller can fix; whatever was evaluated is in the ledger.
    """
    out = options.out
    assert out is not None
    started = time.perf_counter()
    require_cores(options)
    if not options.no_mlflow:
        require_usable(store_of(options), named=named_store(options.tracking_uri) is not None)
    # Taken before the preparation, which may take minutes: a second driver is refused at once.
    with FolderLock(out):
        for name in (INCUMBENT, CHECKPOINTS):
            require_inside(out / name, out)
        if holds_search(out / LEDGER):
            held = read_held(out / LEDGER)
        else:
            held = Held()
            RunFolder(out).require_new()
        options = going_on(held.run, problem, options)
        prepared = prepare(problem, options, observer, recorded_latency=held.run.get("latency"))
        return _run(prepared, observer, held, out=out, started=started)


def _run(prepared: Prepared, observer: Observer, held: Held, *, out: Path, started: float) -> Concluded:
    header = _header(prepared, held.run)
    # Before MLflow hears of the search: one that cannot begin must not be the latest on its page.
    strategy = _strategy(prepared)
    with _ledger(out / LEDGER, header, held) as ledger, _mlflow(prepared, header, out) as mlflow:
        heard: list[Tracker] = [observer, *([] if mlflow is None else [mlflow])]
        observer.begins(metric=prepared.problem.data.task.reported, resource=prepared.space.front_resource)
        study = _study(prepared, strategy, [ledger, *heard])
        with nullcontext() if mlflow is None else mlflow.hearing_past():
            replayed = replay(ledger.events, study, heard_by=[_Past(observer), *heard[1:]])
        if replayed.outcomes:
            observer.stage(f"Resuming after {replayed.outcomes} evaluations")
        elif prepared.space.unreachable:
            observer.warning(prepared.space.unreachable)
        report, interrupted = _evaluate(prepared, study, observer)
        concluded = _conclude(
            prepared, study, report, observer, interrupted=interrupted, started=started, mlflow=mlflow
        )
        if mlflow is not None:
            _close_mlflow(mlflow, concluded, observer)
        return concluded


class _Past:
    """Lets an observer hear what came of earlier candidates, but not that they were asked: that starts its clock."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def asked(self, candidate: Candidate) -> None:
        """Does nothing."""

    def told(self, outcome: Outcome, *, finished: bool) -> None:
        """Passes on."""
        self._observer.told(outcome, finished=finished)


@contextmanager
def _ledger(path: Path, header: Mapping[str, Any], held: Held) -> Iterator[Ledger]:
    """Yields the ledger of the run folder; one begun here that an error leaves without an outcome is taken away again.

    Otherwise a search whose cluster cannot be reached would bar its own folder to the next attempt.
    """
    with Ledger(path, run=header, held=held) as ledger:
        try:
            yield ledger
        except BaseException:
            with suppress(OSError, RunError):
                if not held.events and not any(event["event"] == "told" for event in read_ledger(path)):
                    path.unlink()
            raise


def _header(prepared: Prepared, before: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the ledger's header; a resumed search keeps the identity and the options it was given `before`."""
    header = prepared.header()
    if before:
        # What determines the search is compared key by key; where it lies and who works for it may change.
        header["options"] = before.get("options")
        if "images" not in before:
            header.pop("images", None)  # a search from before they were written down
    return {**header, "uuid": str(before.get("uuid", uuid.uuid4()))}


def _strategy(prepared: Prepared) -> Strategy:
    options, space = prepared.options, prepared.space
    return make_strategy(
        options.strategy, space=space, profile=prepared.profile, seed=options.seed, candidates=options.candidates
    )


def _study(prepared: Prepared, strategy: Strategy, trackers: list[Tracker]) -> Study:
    options, space = prepared.options, prepared.space
    return Study(
        space,
        strategy,
        prepared.ladder,
        candidates=options.candidates,
        seed=options.seed,
        baselines=[("uniform", space.uniform())],
        trackers=trackers,
    )


def _evaluate(prepared: Prepared, study: Study, observer: Observer) -> tuple[BackendReport, bool]:
    """Lets the backend drive the study; returns its report and whether Ctrl-C, not the time limit, ended it."""
    options = prepared.options
    if study.done:
        return BackendReport(0, seconds=0.0, busy_seconds=0.0, interrupted=False), False
    observer.stage(f"Searching {prepared.problem.name} within {' and '.join(options.goals)}")
    deadline = None if options.time_limit is None else time.monotonic() + options.time_limit
    timed_out = False

    def late() -> bool:
        nonlocal timed_out
        # Workers take a while to start. A search that found nothing at all would be of no use.
        empty = study.incumbent is None and not study.failures
        timed_out = deadline is not None and time.monotonic() > deadline and not empty
        return timed_out

    report = evaluated(prepared, study, observer, should_stop=late)
    return report, report.interrupted and not timed_out


def searched(prepared: Prepared, observer: Observer) -> tuple[Evaluation, BackendReport]:
    """Returns the incumbent of a search that leaves no run folder behind: neither ledger, nor MLflow, nor finish.

    Raises:
        RunError: no candidate could be evaluated.
    """
    study = _study(prepared, _strategy(prepared), [observer])
    report, interrupted = _evaluate(prepared, study, observer)
    if interrupted:
        raise KeyboardInterrupt
    if study.incumbent is None:
        raise RunError(f"No candidate could be evaluated: {study.failures[0].reason if study.failures else '-'}.")
    return study.incumbent, report


def _conclude(
    prepared: Prepared,
    study: Study,
    report: BackendReport,
    observer: Observer,
    *,
    interrupted: bool,
    started: float,
    mlflow: MlflowTracker | None,
) -> Concluded:
    """Writes what was found, finishes uniform and incumbent unless interrupted, and writes again."""
    out = prepared.options.out
    assert out is not None
    summary = summarise(prepared, study, report, interrupted=True)
    model: nn.Module | None = None
    summary["tracking"] = None if mlflow is None else _location(mlflow, prepared)
    summary["seconds"] = time.perf_counter() - started
    # Before the finetuning, which may take long, diverge or be stopped.
    write_results(out, summary, prepared, study)
    if not interrupted:
        try:
            tested = summarise(prepared, study, report, interrupted=False)
            tested["tracking"] = summary["tracking"]
            if study.incumbent is not None:
                with torch_threads(useful_threads(prepared.problem.data.input_shape)):
                    model = _finish(prepared, study, observer, tested, incumbent=study.incumbent)
            summary = tested
        except KeyboardInterrupt:
            observer.warning("Stopped while the best networks were finished: their test accuracies are not known.")
        summary["seconds"] = time.perf_counter() - started
        write_results(out, summary, prepared, study)
    return Concluded(out, summary, study, model)


def _finish(
    prepared: Prepared, study: Study, observer: Observer, summary: dict[str, Any], *, incumbent: Evaluation
) -> nn.Module:
    """Tests dense, uniform and incumbent, saves the incumbent, fills the summary in, and returns the incumbent."""
    options, uniform = prepared.options, uniform_of(study)
    observer.stage("Testing the dense network")
    assert options.out is not None
    checkpoints = options.out / CHECKPOINTS
    finisher = Finisher(prepared, observer, epochs=summary["finetune_epochs"], checkpoints=checkpoints)
    summary["dense"].update(figures(finisher.tested(prepared.problem.model)))
    if uniform is not None and uniform.candidate.id != incumbent.candidate.id:
        summary["uniform"] = describe(finisher.finish("uniform widths", uniform), prepared)
    finished = finisher.finish("the incumbent", incumbent)
    summary["incumbent"] = describe(finished, prepared)
    if uniform is not None and uniform.candidate.id == incumbent.candidate.id:
        summary["uniform"] = summary["incumbent"]
        summary["notes"].append("No candidate beat uniform widths on the hold-out.")
    networks = {"dense": prepared.space.dense, "incumbent": incumbent.candidate.structure}
    if uniform is not None:
        networks["uniform"] = uniform.candidate.structure
    summary["latency"] = latency_entry(prepared, networks, observer)
    info = {key: summary["incumbent"][key] for key in ("accuracy", "holdout_accuracy", "proposed_by", "id")}
    info.update({"budget": list(options.goals), "seed": options.seed, "finetune_epochs": summary["finetune_epochs"]})
    save_finished(options.out / INCUMBENT, finished, prepared, info=info)
    rmtree(checkpoints, ignore_errors=True)
    prepared.problem.model.cpu()
    return finished.model


def experiment_name(problem: Problem) -> str:
    """Returns the name of the MLflow experiment that searches of a network belong to."""
    return f"autoprune {problem.name}"


def store_of(options: SearchOptions) -> str:
    """Returns the address of the MLflow store: SQLite beside the run folder unless another is named."""
    assert options.out is not None
    return named_store(options.tracking_uri) or default_store(options.out.resolve().parent)


@contextmanager
def _mlflow(prepared: Prepared, header: Mapping[str, Any], out: Path) -> Iterator[MlflowTracker | None]:
    """Yields the MLflow tracker, closed whatever happens; None where MLflow is not wanted."""
    options = prepared.options
    if options.no_mlflow:
        yield None
        return
    from autoprune.tracking.mlflow_tracker import MlflowTracker

    tracker = MlflowTracker(
        tracking_uri=store_of(prepared.options),
        experiment=experiment_name(prepared.problem),
        run_name=out.resolve().name,
        run_uuid=str(header["uuid"]),
        dense_cost=prepared.network.cost_model.dense,
        groups=prepared.network.groups,
        metric=prepared.problem.data.task.reported,
        resource=prepared.space.front_resource,
        params={
            "budget": " ".join(options.goals),
            "strategy": options.strategy,
            "scope": options.scope,
            "seed": options.seed,
            "candidates": options.candidates,
            "data": prepared.problem.data.name,
            "task": prepared.problem.data.task.name,
        },
        tags={"model": prepared.problem.name},
    )
    try:
        yield tracker
    finally:
        tracker.close(interrupted=True)


def _location(mlflow: MlflowTracker, prepared: Prepared) -> dict[str, Any] | None:
    """Returns where the search is found in MLflow, None where the store does not answer."""
    location = mlflow.location(seconds=20.0)
    if location is None:
        return None
    return {
        "uri": mask_uri(store_of(prepared.options)),
        "experiment_id": location.experiment_id,
        "run_id": location.run_id,
        "view_id": location.view_id,
    }


def _close_mlflow(tracker: MlflowTracker, concluded: Concluded, observer: Observer) -> None:
    names = (SUMMARY, FRONT_CSV, FRONT_HTML, *(() if concluded.model is None else (INCUMBENT,)))
    files = {name: concluded.out / name for name in names if (concluded.out / name).exists()}
    front = {evaluation.candidate.id for evaluation in concluded.study.front}
    interrupted = bool(concluded.summary["interrupted"])
    complaint = tracker.close(concluded.summary, files, front, interrupted=interrupted)
    if complaint:
        observer.warning(complaint)
