"""Run records made by hand: a search of four candidates over two rungs, a pruning, a training."""

from __future__ import annotations

from autoprune.report.pages.run import report_page
from autoprune.report.records.numbers import numbers_of
from autoprune.report.records.run import FINETUNE, PRUNE, SEARCH, RunRecord, evaluations_of, rows_of

GROUPS = {"stem": 8, "block.conv": 16}
#: (id, widths, MACs, proposed by, score of the first rung, of the last or None)
CANDIDATES = (
    (0, (4, 8), 480, "uniform", 0.50, 0.70),
    (1, (6, 6), 490, "pca", 0.60, 0.80),
    (2, (2, 12), 450, "pca", 0.40, None),
    (3, (3, 10), 470, "sensitivity", 0.55, 0.75),
)


def events(by=None):
    rungs = [
        {"level": level, "name": name, "merge": name, "calibration_images": 8, "holdout_images": 8, "epochs": 0.0}
        for level, name in enumerate(("slice", "sequential"))
    ]
    found = [{"event": "header", "format": 1, "run": {"ladder": rungs}}]
    for number, widths, macs, name, first, last in CANDIDATES:
        common = {"id": number, "worker": "main", "seconds": 1.0}
        found.append(
            {
                "event": "asked",
                "id": number,
                "level": 0,
                "widths": list(widths),
                "proposed_by": by or name,
                "seed": 1,
                "macs": macs,
                "params": macs,
            }
        )
        for level, score in enumerate((first, last)):
            if score is not None:
                scores = {"score": score, "accuracy": score, "metrics": {}, "reused": False}
                found.append({"event": "told", "level": level, "next": None, **common, **scores})
    asked = {"event": "asked", "id": 4, "level": 0, "widths": [1, 1], "proposed_by": "pca", "seed": 1}
    failed = {"event": "told", "id": 4, "level": 0, "next": None, "worker": "main", "seconds": 1.0, "failed": "NaN"}
    return (*found, {**asked, "macs": 20, "params": 20}, failed)


def entry(number, **figures):
    _, widths, macs, name, _, last = CANDIDATES[number]
    return {
        "accuracy": 0.7 + 0.1 * number,
        "accuracy_before_finetune": None,
        "holdout_accuracy": last,
        "macs": macs,
        "flops": 2 * macs,
        "params": macs,
        "widths": dict(zip(GROUPS, widths, strict=True)),
        "proposed_by": name,
        "id": number,
        **figures,
    }


def summary(**changes):
    return {
        "format": 1,
        "model": "some/network",
        "data": "images",
        "budget": ["50%flops"],
        "scope": "internal",
        "strategy": "auto",
        "seed": 7,
        "dense": {"accuracy": 0.9, "macs": 1000, "flops": 2000, "params": 1000},
        "uniform": entry(0),
        "incumbent": entry(1),
        "groups": [{"name": name, "width": width, "coupled": False} for name, width in GROUPS.items()],
        "candidates": 5,
        "failures": 1,
        "seconds": 12.0,
        "hypervolume": 0.4,
        "finetune_epochs": 1.0,
        "images": {"holdout": 8, "test": 100},
        "versions": {"python": "3.12.0", "ray": None},
        "command": "autoprune search --budget 50%flops",
        "notes": ["Something is worth saying."],
        **changes,
    }


def search(*, by=None, layers=(), latency=None, **changes):
    return RunRecord("runs/some", SEARCH, summary(**changes), {}, events(by), tuple(layers), latency)


def pruning():
    content = summary(method={"name": "pca", "source": "somebody 2024"})
    del content["uniform"], content["hypervolume"], content["notes"], content["candidates"]
    return RunRecord("runs/pruned", PRUNE, content, {})


def training():
    history = [
        {"epoch": 1, "train_loss": 1.0, "holdout_accuracy": 0.5, "learning_rate": 0.1, "seconds": 1.0},
        {"epoch": 2, "train_loss": 0.5, "holdout_accuracy": 0.6, "learning_rate": 0.05, "seconds": 2.0},
    ]
    content = {
        "kind": FINETUNE,
        "finished": True,
        "model": "some/network",
        "data": "images",
        "epochs": 2.0,
        "seed": 7,
        "device": "cpu",
        "accuracy": 0.61,
        "accuracy_before": 0.4,
        "holdout_accuracy": 0.6,
        "history": history,
        "images": {"training": 90, "holdout": 10, "test": 20},
        "versions": {},
        "command": None,
    }
    structure = {"widths": {"stem": 4}, "dense_widths": {"stem": 8}, "cost": {"macs": 480, "flops": 960, "params": 480}}
    return RunRecord("runs/tuned", FINETUNE, content, structure)


def shown(record):
    """Returns (numbers, rows, page)."""
    evaluations = evaluations_of(record)
    rows = rows_of(record, evaluations)
    numbers = numbers_of(record, evaluations, rows)
    return numbers, rows, report_page(record, numbers, rows)
