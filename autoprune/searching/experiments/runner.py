"""Runs experiment files and keeps their figures in results files.

A results file says with which commit, command, hardware, versions and date its figures were measured. A comparison is
written down row by row: one that was stopped goes on where it was, and rows measured at another commit name it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

from autoprune.config.experiment import Finetuning, experiment_kind, load_comparison, load_experiment, load_published
from autoprune.config.layout import INCUMBENT, STRUCTURE, SUMMARY
from autoprune.config.options import check_options
from autoprune.config.resources import is_installed, resource_path
from autoprune.config.teachers import find_teacher
from autoprune.errors import ConfigError, RunError
from autoprune.report.files import atomic_write_text
from autoprune.report.observer import Observer
from autoprune.searching.experiments.comparison import Contest
from autoprune.searching.experiments.provenance import circumstances, commit
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.run_folder import RunFolder
from autoprune.searching.search.api import run_search
from autoprune.searching.trainings.finetuning import finetune
from autoprune.searching.trainings.options import FinetuneOptions
from autoprune.strategies.registry import strategy_names
from autoprune.tracking.uris import named_store

_KEPT = (
    "model", "data", "budget", "scope", "strategy", "seed", "dense", "uniform", "incumbent", "limits", "latency",
    "candidates", "failures", "seconds", "search_seconds", "utilisation", "workers", "hypervolume", "reference_point",
    "finetune_epochs", "images",
)  # fmt: skip

#: Of a long finetune; its history is told by its journal.
_FINETUNED = (
    "accuracy",
    "accuracy_before",
    "holdout_accuracy",
    "epochs",
    "steps",
    "seconds",
    "images",
    "precision",
    "recipe",
)

Display = Callable[[int], Observer]


def run_experiment(file: str, *, seeds: Sequence[int] | None, results: Path | None, display: Display) -> Path:
    """Runs an experiment; returns its results file.

    Args:
        file: a path, or the name of a shipped experiment.
        seeds: each is run; the file's own seed if None. A comparison has one.
        results: folder of the results file; if None `results` beside the experiment, or in the working directory for
            one that ships with an installed autoprune.
        display: makes the observer of one run that evaluates so many candidates.

    Raises:
        ConfigError: the file or what it names cannot be used.
        RunError: the results cannot be written.
    """
    path = resource_path("experiments", file)
    folder = results or (Path() if is_installed("experiments", path) else path.parent) / "results"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot make {str(folder)!r}: {error.strerror}. Name another with --results.") from error
    target = folder / f"{path.stem}.json"
    if target.is_dir() or not os.access(folder, os.W_OK):  # said now, and not after hours of search
        why = "it is a folder" if target.is_dir() else f"{str(folder)!r} cannot be written"
        raise RunError(f"Cannot write the results to {str(target)!r}: {why}. Name another folder with --results.")
    kinds = {"search": _search, "comparison": _compare, "published": _outdo}
    return kinds[experiment_kind(path)](path, target, seeds=seeds, display=display)


def _search(path: Path, target: Path, *, seeds: Sequence[int] | None, display: Display) -> Path:
    named = check_options({}, strategies=strategy_names(), from_file=load_experiment(path))
    options = SearchOptions(**named)
    # Beside a run folder that is thrown away a store would be written for nobody, and its time be in the figures.
    options = replace(options, no_mlflow=options.no_mlflow or named_store(options.tracking_uri) is None)
    runs = []
    for seed in seeds or [options.seed]:
        with tempfile.TemporaryDirectory() as folder:
            observer = display(options.candidates)
            try:
                found = run_search(replace(options, seed=seed, out=Path(folder, "run")), observer=observer)
            finally:
                observer.close()
            if found.summary.get("interrupted"):
                raise KeyboardInterrupt
            found.require_found()
            runs.append({key: found.summary[key] for key in _KEPT if key in found.summary})
    listed = "".join(f" --seed {seed}" for seed in seeds or ())
    _write(target, {**_provenance(path, listed), "kind": "search", "runs": runs})
    return target


def _compare(path: Path, target: Path, *, seeds: Sequence[int] | None, display: Display) -> Path:
    compared, named = load_comparison(path)
    options = SearchOptions(**check_options(named, strategies=strategy_names(), flags=False))
    options = replace(options, seed=_one_seed(seeds, options.seed))
    listed = "".join(f" --seed {seed}" for seed in seeds or ())
    observer = display(options.candidates)
    try:
        contest = Contest(compared, options, observer)
        about = contest.about()
        content = _unfinished(target, about)
        if content is None:
            content = {**_provenance(path, listed), "kind": "comparison", "complete": False, **about, "rows": []}
        here = commit()
        own = {} if content["commit"] == here else {"commit": here}
        done = {(row["budget"], row["method"]) for row in content["rows"]}
        for row in contest.rows([pair for pair in contest.pairs if pair not in done]):
            content["rows"].append({**row, **own})
            _write(target, content)
    finally:
        observer.close()
    _write(target, {**content, "complete": True})
    return target


def _outdo(path: Path, target: Path, *, seeds: Sequence[int] | None, display: Display) -> Path:
    """Searches, finetunes what was found for long, and writes the figures down beside published ones.

    The run lies in a hidden folder beside the results until it is done: one that was stopped goes on where it was.
    """
    published, tuned, named = load_published(path)
    options = SearchOptions(**check_options(named, strategies=strategy_names(), flags=False))
    options = replace(options, seed=_one_seed(seeds, options.seed), no_mlflow=True)
    teacher = find_teacher(tuned.teacher, tuned.teacher_model, spelled=("teacher", "teacher_model"))
    tuned = replace(tuned, teacher=teacher)
    # Of these options alone: what was begun with others is not gone on with.
    asked = json.dumps([asdict(options), asdict(tuned)], default=str)
    folder = target.parent / f".{path.stem}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
    run, trained = folder / "run", folder / "finetuned"
    observer = display(options.candidates)
    try:
        summary = _searched(replace(options, out=run, finetune_epochs=0.0), run, observer)
        tuning = _finetune_options(options, tuned, run / INCUMBENT, trained, holdout=summary["images"]["holdout"])
        report = finetune(tuning, observer)
    finally:
        observer.close()
    listed = "".join(f" --seed {seed}" for seed in seeds or ())
    taught = {} if teacher is None else {"teacher": teacher.name, "teacher_model": tuned.teacher_model}
    content = {
        **_provenance(path, listed),
        "kind": "published",
        "published": [asdict(item) for item in published],
        "run": {key: summary[key] for key in _KEPT if key in summary},
        "finetuned": {key: report[key] for key in _FINETUNED} | taught,
    }
    _write(target, content)
    rmtree(folder)
    return target


def _searched(options: SearchOptions, run: Path, observer: Observer) -> Mapping[str, Any]:
    """Returns the summary of a search: that of the run folder, or of one that is begun or gone on with there."""
    folder = RunFolder(run)
    if folder.holds(SUMMARY) and folder.holds(f"{INCUMBENT}/{STRUCTURE}"):
        before = folder.summary()
        if not before["interrupted"]:
            return before
    found = run_search(options, observer=observer)
    if found.summary.get("interrupted"):
        raise KeyboardInterrupt
    found.require_found()
    return found.summary


def _finetune_options(
    options: SearchOptions, tuned: Finetuning, source: Path, out: Path, *, holdout: int
) -> FinetuneOptions:
    """Returns how the network that was found is finetuned: on all images but those that its candidates were scored on.

    They tell how the finetune goes; nothing is chosen by them.
    """
    return FinetuneOptions(
        epochs=tuned.epochs,
        learning_rate=tuned.learning_rate,
        source=source,
        data=options.data,
        task=options.task,
        out=out,
        weights=options.weights if tuned.teacher is None else None,
        teacher=tuned.teacher,
        teacher_model=tuned.teacher_model,
        data_root=options.data_root,
        holdout_images=holdout,
        seed=options.seed,
        device=options.device,
        no_mlflow=True,
    )


def _one_seed(seeds: Sequence[int] | None, own: int) -> int:
    if seeds and len(seeds) > 1:
        raise ConfigError("Such an experiment runs with one seed at a time. Give --seed once.")
    return seeds[0] if seeds else own


def _unfinished(target: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the rows so far of the same comparison that was stopped, None where there is none."""
    try:
        content = json.loads(target.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("complete", True) or "commit" not in content:
        return None
    # Written and read again: a tuple comes back as a list.
    same = all(content.get(name) == value for name, value in json.loads(json.dumps(about)).items())
    return content if same else None


def _provenance(path: Path, listed: str) -> dict[str, Any]:
    return {
        "experiment": path.name,
        "command": f"autoprune experiment experiments/{path.name}{listed}",
        **circumstances(),
    }


def _write(target: Path, content: Mapping[str, Any]) -> None:
    atomic_write_text(target, json.dumps(content, indent=1) + "\n")
