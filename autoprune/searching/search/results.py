"""What a search leaves behind: `summary.json`, the front as table and page, and the entries they hold."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.config.layout import FRONT_CSV, FRONT_HTML, SUMMARY
from autoprune.core.candidate import Evaluation
from autoprune.core.seams import BackendReport
from autoprune.core.versions import version_of
from autoprune.report.files import atomic_write_text, write_front_csv
from autoprune.report.pages.front import front_data, marks_of, write_front_html
from autoprune.report.records.rows import candidate_rows, front_rows
from autoprune.searching.inputs.run_folder import SUMMARY_FORMAT
from autoprune.searching.search.finish import cost_entry, describe_candidate, limits_of
from autoprune.searching.search.latency import latency_entry
from autoprune.searching.search.preparation import Prepared
from autoprune.study.study import Study
from autoprune.tracking.uris import mask_secrets

#: Hypervolume is measured against nothing right at the dense cost.
REFERENCE_POINT = (0.0, 1.0)
DEFAULT_FINETUNE_EPOCHS = 1.0
_PACKAGES = ("autoprune", "torch", "torchvision", "numpy", "ray", "optuna", "pymoo", "mlflow", "scikit-learn")


def summary_of(prepared: Prepared, incumbent: Evaluation | None, *, finetune_epochs: float) -> dict[str, Any]:
    """Returns what every summary says of a network that was found, or not, and of the dense one, before any test.

    Their `accuracy` is null, and no latency is measured.
    """
    options, network, data, split = prepared.options, prepared.network, prepared.problem.data, prepared.split
    return {
        "format": SUMMARY_FORMAT,
        "folder": str(options.out),
        "model": prepared.problem.name,
        "data": data.name,
        "task": data.task.name,
        "metric": data.task.reported,
        "budget": list(options.goals),
        "scope": options.scope,
        "seed": options.seed,
        "dense": {"accuracy": None, **cost_entry(network.cost_model.dense)},
        "incumbent": None if incumbent is None else describe_candidate(incumbent, prepared),
        "limits": limits_of(prepared.space, None if incumbent is None else incumbent.candidate.cost),
        "latency": latency_entry(prepared, {}),
        "groups": [{"name": g.name, "width": g.width, "coupled": g.coupled} for g in network.groups],
        "frozen": dict(network.frozen),
        "finetune_epochs": finetune_epochs,
        "images": {
            "calibration": len(split.calibration),
            "holdout": len(split.holdout),
            "training": len(split.training),
            **({} if data.validation is None else {"validation": len(data.validation)}),
            "test": len(data.test),
        },
        "versions": package_versions(),
        "command": command_line(),
    }


def summarise(prepared: Prepared, study: Study, report: BackendReport, *, interrupted: bool) -> dict[str, Any]:
    """Returns the summary of a search whose networks have not been tested yet."""
    options, uniform = prepared.options, uniform_of(study)
    epochs = DEFAULT_FINETUNE_EPOCHS if options.finetune_epochs is None else options.finetune_epochs
    return {
        **summary_of(prepared, study.incumbent, finetune_epochs=epochs),
        "strategy": options.strategy,
        "uniform": None if uniform is None else describe_candidate(uniform, prepared),
        "candidates": study.proposed,
        "failures": len(study.failures),
        "seconds": 0.0,
        "search_seconds": report.seconds,
        "utilisation": report.utilisation,
        "overhead_seconds": report.overhead,
        "workers": report.workers,
        "hypervolume": study.front.hypervolume(prepared.network.cost_model.dense, REFERENCE_POINT),
        "front_resource": study.front.resource,
        "reference_point": list(REFERENCE_POINT),
        "notes": _notes(prepared, study),
        "interrupted": interrupted,
    }


def write_summary(out: Path, summary: Mapping[str, Any]) -> None:
    """Writes `summary.json`.

    Raises:
        RunError: it cannot be written.
    """
    atomic_write_text(out / SUMMARY, json.dumps(summary, indent=1) + "\n")


def package_versions() -> dict[str, str | None]:
    """Returns the versions of Python, of autoprune and of what its results depend on; None where not installed."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in _PACKAGES}}


def command_line() -> str | None:
    """Returns the command that runs, its secrets masked; None where autoprune is used from Python."""
    ours = Path(sys.argv[0]).stem in ("autoprune", "__main__")
    return mask_secrets(shlex.join(["autoprune", *sys.argv[1:]])) if ours else None


def uniform_of(study: Study) -> Evaluation | None:
    """Returns what the highest rung said of uniform widths, which are always candidate 0."""
    found = [item for item in study.ladder_of(0) if isinstance(item, Evaluation)] if study.proposed else []
    return found[-1] if found else None


def write_results(out: Path, summary: Mapping[str, Any], prepared: Prepared, study: Study) -> None:
    """Writes everything that is known: `front.csv`, `front.html`, and last `summary.json`.

    Raises:
        RunError: a file cannot be written.
    """
    network = prepared.network
    rows = candidate_rows(
        study.evaluations,
        groups=network.groups,
        dense=network.cost_model.dense,
        front_ids={evaluation.candidate.id for evaluation in study.front},
    )
    write_front_csv(out / FRONT_CSV, front_rows(rows, study.front.resource))
    write_front_html(
        out / FRONT_HTML,
        front_data(
            rows,
            marks=marks_of(summary),
            budget=prepared.options.goals,
            dense_widths={group.name: group.width for group in network.groups},
            resource=study.front.resource,
            title=f"{prepared.problem.name} on {prepared.problem.data.name}",
            run=str(out),
            metric=prepared.problem.data.task.reported,
        ),
    )
    write_summary(out, summary)


def _notes(prepared: Prepared, study: Study) -> list[str]:
    options, problem = prepared.options, prepared.problem
    notes = []
    if len(study.front):
        rung = study.front.evaluations[-1].candidate.fidelity.name
        count, part = len(prepared.split.holdout), "validation" if prepared.split.apart else "training"
        notes.append(f"Hold-out accuracies are of the {rung} fidelity, on {count:,} images of the {part} set.")
    if options.weights is not None or problem.spec is None or ":" in problem.spec:
        if not prepared.split.apart:
            notes.append("The dense network was trained elsewhere and may have seen the hold-out images.")
    elif problem.trained_here:
        seen = "not seen" if prepared.split.apart else "seen"
        notes.append(f"The dense network was trained on the whole training set and has {seen} the hold-out images.")
    else:
        notes.append("The dense network has the random weights it was built with.")
    if prepared.space.unreachable:
        notes.append(prepared.space.unreachable)
    if all(limit.allows(prepared.space.cost_model.dense) for limit in prepared.space.limits):
        notes.append("The budget allows the dense network as it is: nothing had to be cut.")
    if study.stopped_because:
        notes.append(f"The search stopped early: {study.stopped_because}")
    elif study.failures:
        first = study.failures[0]
        notes.append(f"{len(study.failures)} evaluations failed, candidate {first.candidate.id} first: {first.reason}")
    return notes
