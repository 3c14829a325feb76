"""The numbers behind the report, as JSON values: one place, so that the page and `--json` cannot differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.core.candidate import Evaluation
from autoprune.report.records.progress import agreement_of, progress_of, strategies_of
from autoprune.report.records.run import PRUNE, SEARCH, RunRecord, rungs_of

_FIGURES = ("accuracy_before_finetune", "accuracy", "holdout_accuracy", "macs", "flops", "params", "id", "proposed_by")


def numbers_of(
    record: RunRecord, evaluations: Sequence[Evaluation], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns everything the report says in figures.

    Args:
        record: the run.
        evaluations: of `run.evaluations_of`.
        rows: of `run.rows_of`.
    """
    summary, dense, resource = record.summary, record.dense, record.front_resource
    steps = progress_of(evaluations, dense=dense, resource=resource) if dense is not None else []
    return {
        "kind": record.kind,
        "folder": record.folder,
        "model": summary.get("model"),
        "data": summary.get("data"),
        "metric": str(summary.get("metric") or "accuracy"),
        "budget": list(summary.get("budget", ())),
        "scope": summary.get("scope"),
        "strategy": summary.get("strategy"),
        "method": summary.get("method"),
        "networks": _networks(record),
        "gains": _gains(record),
        "candidates": _candidates(record),
        "failures": summary.get("failures"),
        "seconds": summary.get("seconds"),
        "search_seconds": summary.get("search_seconds"),
        "hypervolume": summary.get("hypervolume"),
        "front_resource": resource,
        "front": [row["id"] for row in rows if row["front"]],
        "progress": steps,
        "strategies": strategies_of(record.events, evaluations, rows=rows, steps=steps, resource=resource),
        "rungs": [rung.name for rung in rungs_of(record)],
        "agreement": agreement_of(evaluations),
        "widths": [
            {"group": name, "dense": width, "kept": record.widths.get(name, width), "uniform": uniform.get(name)}
            for uniform in ((summary.get("uniform") or {}).get("widths") or {},)
            for name, width in record.groups.items()
        ],
        "layers": [dict(layer) for layer in record.layers],
        "history": [dict(row) for row in summary.get("history", ())],
        "latency": None if record.latency is None else dict(record.latency),
        "finetune_epochs": summary.get("finetune_epochs", summary.get("epochs")),
        "images": summary.get("images"),
        "seed": summary.get("seed"),
        "command": summary.get("command"),
        "versions": dict(summary.get("versions") or {}),
        "hardware": summary.get("hardware") or summary.get("device"),
        "workers": summary.get("workers"),
        "interrupted": bool(summary.get("interrupted")) or summary.get("finished") is False,
        "over_seeds": [],
        "notes": [str(note) for note in (*summary.get("notes", ()), *record.notes)],
    }


def _networks(record: RunRecord) -> list[dict[str, Any]]:
    """Returns the rows of the table: dense, uniform and incumbent; of a training before and after."""
    summary = record.summary
    if record.kind in (SEARCH, PRUNE):
        names = {"incumbent": "pruned"} if record.kind == PRUNE else {}
        listed = [(names.get(key, key), summary[key]) for key in ("dense", "uniform", "incumbent") if summary.get(key)]
    else:
        cost = dict(record.structure.get("cost", {}))
        before = {"accuracy": summary.get("accuracy_before"), **cost}
        listed = [("before", before)] if before["accuracy"] is not None else []
        listed += [("trained", {**summary, **cost})]
    # A finetuned network does not say what its dense one cost; its layers do.
    whole = sum(layer["dense"] for layer in record.layers)
    dense = summary.get("dense") or {"macs": whole or None}
    found = []
    for name, network in listed:
        row = {"name": name, **{key: network.get(key) for key in _FIGURES}}
        for label, key in (("flops", "macs"), ("params", "params")):
            known = row[key] and dense.get(key)
            row[f"retained_{label}"] = row[key] / dense[key] if known else None
        found.append(row)
    return found


def _gains(record: RunRecord) -> dict[str, float | None]:
    """Returns by how much the result is better than what it is compared with, in accuracy on the test set."""
    reached = (record.summary.get("incumbent") or {}).get("accuracy", record.summary.get("accuracy"))
    others = {
        "dense": (record.summary.get("dense") or {}).get("accuracy"),
        "uniform": (record.summary.get("uniform") or {}).get("accuracy"),
        "before": record.summary.get("accuracy_before"),
    }
    return {name: None if reached is None or value is None else reached - value for name, value in others.items()}


def _candidates(record: RunRecord) -> int | None:
    asked = {event["id"] for event in record.events if event["event"] == "asked"}
    return len(asked) if record.events else record.summary.get("candidates")
