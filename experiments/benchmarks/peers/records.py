"""Runs a plan: a file a record, whole or absent, so that a run that was stopped goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from autoprune.core.candidate import Merge
from autoprune.core.files import atomic_write_text
from autoprune.errors import AutopruneError, ConfigError, RunError, nearest
from autoprune.report import formats
from autoprune.searching.experiments.provenance import commit
from experiments.benchmarks.peers.arena import Arena, Run
from experiments.benchmarks.peers.contestants import CONTESTANTS
from experiments.benchmarks.peers.plan import Network, Task, tasks_of

Say = Callable[[str], None]
Record = Mapping[str, Any]


def run_plan(networks: Sequence[Network], folder: Path, say: Say) -> None:
    """Writes the records of a plan that are not in the folder yet.

    A method that fails has a record that says why; delete the file to try again.
    """
    arena: Arena | None = None
    for task in present_tasks(networks, say):
        path = folder / task.file_name
        if path.is_file():
            continue
        if arena is None or (arena.network.name, arena.seed) != (task.network.name, task.seed):
            arena = Arena(task.network, task.seed, folder=folder)
        record = recorded(arena, task)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(record) + "\n")
        say(f"{task.network.name} {task.budget} {task.method} seed {task.seed}: {_shown(record)}")


def present_tasks(networks: Sequence[Network], say: Say) -> list[Task]:
    """Returns the tasks whose packages are installed; says once what is left out, and what to install.

    Raises:
        ConfigError: a method is unknown.
    """
    tasks = list(tasks_of(tuple(networks)))
    for task in tasks:
        if task.method not in CONTESTANTS:
            raise ConfigError(f"Unknown method {task.method!r} in the plan.{nearest(task.method, CONTESTANTS)}")
    absent = {task.method for task in tasks if not CONTESTANTS[task.method].present}
    for name in sorted(absent):
        contestant = CONTESTANTS[name]
        say(f"{contestant.label} is left out: {contestant.package} is missing. pip install 'autoprune[peers]'")
    return [task for task in tasks if task.method not in absent]


def recorded(arena: Arena, task: Task) -> dict[str, Any]:
    """Returns the record of a task, run now."""
    record: dict[str, Any] = {
        "network": task.network.name,
        "budget": task.budget,
        "method": task.method,
        "seed": task.seed,
        "evaluations": task.entry.evaluations,
        "commit": commit(),
    }
    try:
        run = CONTESTANTS[task.method].way(arena, task)
        return {**record, **_judged(arena, task, run)}
    except Exception as error:  # peers raise what they like, and the others go on
        kind = "" if isinstance(error, AutopruneError) else f"{type(error).__name__}: "
        return {**record, "failed": kind + formats.one_line(str(error))}


def _judged(arena: Arena, task: Task, run: Run) -> dict[str, Any]:
    """Returns what a method did, and how its networks do on the test set."""
    curve = [
        [step.scorings, round(step.seconds, 3), arena.score(step.structure, Merge.SEQUENTIAL).accuracy]
        for step in run.steps
    ]
    found: dict[str, Any] = {
        "scorings": run.scorings,
        "seconds": round(run.seconds, 3),
        "curve": curve,
        "dense": packed(arena.dense_hits),
        "images": len(arena.dense_hits),
        "facts": dict(run.facts),
    }
    last = run.steps[-1].structure if run.steps else None
    if run.own is not None:
        found["slice"] = _tested(arena, task, arena.settled(run.own), macs=arena.count(run.own))
    elif last is not None:
        found["slice"] = _tested(arena, task, arena.cut(last, Merge.SLICE), macs=arena.macs(last))
    if last is not None:
        cut = _tested(arena, task, arena.cut(last, Merge.SEQUENTIAL), macs=arena.macs(last))
        found["cut"] = {**cut, "widths": list(last.widths)}
    return found


def _tested(arena: Arena, task: Task, model: nn.Module, *, macs: int) -> dict[str, Any]:
    if macs > arena.ceiling(task.budget):
        raise RunError(f"{task.method} handed over a network above {task.budget}.")
    hits = arena.tested(model)
    tuned = arena.tested(arena.finetuned(model))
    return {"kept": macs / arena.macs(arena.whole.network.dense), "hits": packed(hits), "tuned": packed(tuned)}


def packed(hits: npt.NDArray[np.bool_]) -> str:
    """Returns (n,) booleans as hexadecimal digits."""
    return np.packbits(hits).tobytes().hex()


def unpacked(text: str, images: int) -> npt.NDArray[np.bool_]:
    """Returns the (n,) booleans that `packed` made digits of."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=images)
    return bits.astype(bool)


def read_records(folder: Path) -> list[Record]:
    """Returns all records of a folder.

    Raises:
        RunError: there is none, or one cannot be read.
    """
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise RunError(f"Cannot read the record {str(path)!r}: {error}. Delete it and run again.") from error
    if not records:
        raise RunError(f"{str(folder)!r} holds no record. Run the benchmark first.")
    return records


def _shown(record: Record) -> str:
    if "failed" in record:
        return f"failed: {record['failed']}"
    parts = [
        f"{name} {100 * float(unpacked(record[name]['hits'], record['images']).mean()):.2f} %"
        for name in ("slice", "cut")
        if name in record
    ]
    return f"{', '.join(parts)}; {record['scorings']} scorings, {record['seconds']:.1f} s"
