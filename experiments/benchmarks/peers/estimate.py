"""How long a plan will take, from one scoring of each kind on each network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from autoprune.core.candidate import Merge
from autoprune.report import formats
from experiments.benchmarks.peers.arena import Arena, Clock
from experiments.benchmarks.peers.contestants import CONTESTANTS
from experiments.benchmarks.peers.plan import Network, Task
from experiments.benchmarks.peers.records import Say, present_tasks

#: Of Torch-Pruning: configurations, networks that each of them cuts, and seconds of each.
_CONFIGURATIONS, _CUTS, _CUT_SECONDS = 18, 8, 0.2


def estimated(networks: Sequence[Network], folder: Path, say: Say) -> float:
    """Says what every missing record will take and returns the sum in seconds of the processor."""
    tasks = [task for task in present_tasks(networks, say) if not (folder / task.file_name).is_file()]
    total = 0.0
    for network in networks:
        mine = [task for task in tasks if task.network.name == network.name]
        if not mine:
            continue
        costs = _Costs(Arena(network, 0, folder=folder), network.budgets[0])
        say(f"{network.name}: {costs.said()}")
        for method in dict.fromkeys(task.method for task in mine):
            runs = [task for task in mine if task.method == method]
            seconds = sum(costs.of(task) for task in runs)
            total += seconds
            said = f"{len(runs)} records of {runs[0].entry.evaluations} evaluations"
            say(f"  {CONTESTANTS[method].label}: {said}, about {formats.duration(seconds)}")
    say(f"In all about {formats.duration(total)} of the processor.")
    return total


class _Costs:
    """Seconds of one scoring of each kind."""

    def __init__(self, arena: Arena, budget: str) -> None:
        structure = arena.widened(arena.prepared(budget).space.uniform())
        self._merges = {merge: _timed(partial(arena.score, structure, merge)) for merge in Merge}
        self._dense = _timed(lambda: arena.goodness(arena.dense))
        with torch.no_grad():
            self._norms = _timed(lambda: arena.dense(arena.calibration))
        model = arena.cut(structure, Merge.SEQUENTIAL)
        self._end = 2 * (2 * _timed(lambda: arena.tested(model)) + _timed(lambda: arena.finetuned(model)))

    def said(self) -> str:
        """Returns the seconds for people."""
        kinds = ", ".join(f"{merge.value} {seconds:.2f} s" for merge, seconds in self._merges.items())
        return f"{kinds}, FastNAS {self._dense + self._norms:.2f} s a scoring; {self._end:.0f} s to finish a record"

    def of(self, task: Task) -> float:
        """Returns the seconds of a record."""
        merges, count = self._merges, task.entry.evaluations
        ladder = count * (merges[Merge.LEAST_SQUARES] + 0.5 * merges[Merge.SEQUENTIAL])
        cuts = _CONFIGURATIONS * (_CUTS * _CUT_SECONDS + merges[Merge.SLICE] + merges[Merge.SEQUENTIAL])
        own = {
            "uniform": 0.0,
            "optuna": count * merges[Merge.SLICE],
            "optuna-cut": count * merges[Merge.SEQUENTIAL],
            "fastnas": count * (self._dense + self._norms),
            "fastnas-cut": count * 1.5 * merges[Merge.LEAST_SQUARES],
            "torch-pruning": cuts,
        }
        return own.get(task.method, ladder) + self._end


def _timed(work: Callable[[], object]) -> float:
    clock = Clock()
    work()
    return clock.seconds
