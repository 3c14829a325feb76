"""Records a tabular benchmark: several hundred structures of a real network, each evaluated at every rung.

Run from the repository's root, for example:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.record_table resnet20-b --model cifar/resnet20-b \
        --weights resnet20_b_cifar10.pt --data cifar10 --minutes 14

The structures come in three phases: *spread* over 20 to 80 % of the FLOPs (heuristics, uniform, random, and one group
narrowed at a time); *searched*, what real searches of several strategies visit; and *closing*, in rounds: what
simulated searches on the table so far find best, evaluated for real, so that no search lives on an error of the
interpolation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.backends.evaluating import evaluate
from autoprune.config.options import check_options
from autoprune.core.budget import parse_budgets
from autoprune.core.candidate import Candidate, Evaluation, Ladder, Merge, Outcome
from autoprune.core.seeds import derive_seed, generator
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.evaluation.evaluator import fidelity_for
from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import load_problem
from autoprune.searching.search.preparation import Prepared, prepare
from autoprune.strategies import heuristic_structures, make_strategy, strategy_names
from autoprune.strategies.base import with_ceiling
from autoprune.testing import table as tables
from autoprune.testing.simulation import simulate
from autoprune.testing.table import Table
from autoprune.testing.tabular import tabular_landscape
from experiments.benchmarks.common import circumstances

BAND = "20..80%flops"
#: Calibration and hold-out images of the two rungs.
RUNGS = ((Merge.LEAST_SQUARES, 128, 250), (Merge.SEQUENTIAL, 128, 1000))
SEARCHERS = ("auto", "tpe", "nsga2", "pso")
CLOSERS = ("auto", "nsga2")
BUDGETS = ("50%flops", "35%flops", "65%flops", BAND)
#: Shares of the time that the phases end at.
SPREAD, SEARCHED = 0.4, 0.7
_POSITIONS = (0.0, 0.17, 0.33, 0.5, 0.67, 0.83, 1.0)
_PROBED = (0.7, 0.4, 0.2, 0.1)


class Recorder:
    """Evaluates structures of one network at every rung, each structure once, until its time is up."""

    def __init__(self, prepared: Prepared, *, minutes: float, seed: int) -> None:
        factory = prepared.factory()
        self.space = prepared.space
        self.profile = prepared.profile
        self._prepared, self._seed, self._minutes = prepared, seed, minutes
        self._evaluator = factory.build(factory.arrays, worker="recorder")
        self._rows: dict[Structure, list[Outcome]] = {}
        self._phases: list[str] = []
        self._seconds: list[list[float]] = []
        self._spent = 0.0

    @property
    def share(self) -> float:
        """Share of the time that is used up."""
        return self._spent / (60 * self._minutes)

    def record(self, structure: Structure, phase: str) -> list[Outcome]:
        """Returns the outcomes of a structure, one a rung, evaluated unless they are known."""
        if structure not in self._rows:
            outcomes, seconds = [], []
            for rung in self._prepared.ladder.rungs:
                candidate = Candidate(
                    id=len(self._rows),
                    structure=structure,
                    cost=self.space.cost(structure),
                    fidelity=rung,
                    seed=derive_seed(self._seed, "record", len(self._rows)),
                    proposed_by=phase,
                )
                began = time.process_time()
                outcomes.append(evaluate(self._evaluator, candidate, worker="main").outcome)
                seconds.append(time.process_time() - began)
            self._rows[structure] = outcomes
            self._phases.append(phase)
            self._seconds.append(seconds)
            self._spent += sum(seconds)
            sys.stderr.write(f"\r{len(self._rows)} structures, {100 * self.share:.0f} % of the time ")
        return self._rows[structure]

    def record_all(self, structures: Iterable[Structure], phase: str, *, until: float) -> None:
        """Records structures until a share of the time is used up."""
        for structure in structures:
            if self.share >= until:
                return
            self.record(structure, phase)

    def search(self, name: str, budget: str, *, seed: int, candidates: int, until: float) -> None:
        """Runs a strategy on real evaluations at the top rung."""
        space = SearchSpace.build(self.space.groups, self.space.cost_model, parse_budgets(budget))
        strategy = make_strategy(name, space=space, profile=self.profile, seed=seed, candidates=candidates)
        for number in range(candidates):
            structure = strategy.ask(number)
            if structure is None or self.share >= until:
                return
            outcome = self.record(structure, "searched")[-1]
            strategy.tell(replace(outcome, candidate=replace(outcome.candidate, id=number)))

    def table(self, provenance: dict[str, Any]) -> Table:
        """Returns what was recorded so far."""
        rows = list(self._rows.items())
        failures = {
            (row, rung): outcome.reason
            for row, (_, outcomes) in enumerate(rows)
            for rung, outcome in enumerate(outcomes)
            if not isinstance(outcome, Evaluation)
        }

        def values(name: str) -> Any:
            return np.array([[getattr(outcome, name, np.nan) for outcome in outcomes] for _, outcomes in rows])

        return Table(
            groups=self.space.groups,
            # What is measured or counted otherwise stays behind: only sums of products can be written down.
            cost_model=replace(self.space.cost_model, others={}),
            profile=self.profile,
            ladder=self._prepared.ladder,
            widths=np.array([structure.widths for structure, _ in rows]),
            scores=values("score"),
            accuracies=values("accuracy"),
            seconds=np.array(self._seconds),
            phases=tuple(self._phases),
            failures=failures,
            provenance=provenance,
        )


def spread(recorder: Recorder) -> Iterator[Structure]:
    """Yields structures all over the band: heuristics and uniform first, then probes and random ones in turns."""
    space = recorder.space
    for position in _POSITIONS:
        narrowed = with_ceiling(space, position)
        yield from [narrowed.uniform(), *heuristic_structures(narrowed, recorder.profile).values()]
    yield space.dense
    yield from _probes(space)
    rng = generator(0, "spread")
    while True:
        narrowed = with_ceiling(space, float(rng.uniform()))
        # Half of them anywhere, half around uniform widths: the former are mostly poor.
        if rng.random() < 0.5:
            yield narrowed.sample(1, rng)[0]
        else:
            yield narrowed.exchange(narrowed.uniform(), rng, count=1, reach=float(rng.uniform(0.3, 1.2)))[0]


def _probes(space: SearchSpace) -> Iterator[Structure]:
    dense = space.dense.widths
    for ratio in _PROBED:
        for index, group in enumerate(space.groups):
            near = min(group.legal_widths[:-1], key=lambda width: abs(width - ratio * group.width), default=group.width)
            yield Structure((*dense[:index], near, *dense[index + 1 :]))


def closing(table: Table, *, seed: int) -> Iterator[Structure]:
    """Yields what simulated searches on the table find, and neighbours of it."""
    rng = generator(seed, "closing")
    for budget in BUDGETS:
        landscape = tabular_landscape(table, budget=budget, seed=seed)
        for name in CLOSERS:
            strategy = make_strategy(name, space=landscape.space, profile=table.profile, seed=seed, candidates=100)
            found = simulate(strategy, landscape, candidates=100, workers=4, seed=seed)
            ranked = sorted(found.evaluations, key=lambda one: -landscape.accuracy(one.candidate.structure))
            best = [one.candidate.structure for one in ranked if landscape.space.is_legal(one.candidate.structure)]
            yield from best[:6]
            yield from landscape.space.exchange(best[0], rng, count=2, reach=0.3)


def record(name: str, options: SearchOptions, *, minutes: float) -> Path:
    """Returns the file that a table was written to."""
    torch.set_num_threads(1)
    prepared = prepare(load_problem(options, NullObserver()), options, NullObserver())
    rungs = tuple(
        fidelity_for(merge, level=level, calibration=calibration, holdout=holdout)
        for level, (merge, calibration, holdout) in enumerate(RUNGS)
    )
    recorder = Recorder(replace(prepared, ladder=Ladder(rungs, keep=2.0)), minutes=minutes, seed=options.seed)
    provenance = {
        "command": " ".join(["python -m experiments.benchmarks.record_table", *sys.argv[1:]]),
        "weights": str(options.weights.name) if options.weights else None,
        "fingerprint": prepared.fingerprint,
        "data": prepared.problem.data.name,
        "scope": options.scope,
        "score": prepared.problem.data.task.score,
        "seed": options.seed,
        **circumstances(("torch", "numpy")),
    }
    path = tables.SHIPPED / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)

    def keep() -> Table:
        table = recorder.table(provenance)
        table.save(path)
        return table

    recorder.record_all(spread(recorder), "spread", until=SPREAD)
    keep()
    for seed, (searcher, budget) in enumerate((one, budget) for budget in BUDGETS for one in SEARCHERS):
        recorder.search(searcher, budget, seed=seed, candidates=30, until=SEARCHED)
    table, number = keep(), 0
    while recorder.share < 1:
        number += 1
        recorder.record_all(closing(table, seed=number), f"closing {number}", until=1.0)
        table = keep()
    return path


def main() -> None:
    """Records and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the table")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--scope", default="internal", choices=("internal", "coupled"))
    parser.add_argument("--minutes", type=float, default=10.0, help="of processor time spent evaluating")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    given = {
        name: value for name, value in vars(asked).items() if name not in ("name", "minutes") and value is not None
    }
    fixed = {
        "front": BAND,
        "calibration_images": max(calibration for _, calibration, _ in RUNGS),
        "holdout_images": max(holdout for *_, holdout in RUNGS),
        "device": "cpu",
    }
    options = SearchOptions(**check_options({**given, **fixed}, strategies=strategy_names()))
    sys.stdout.write(f"{record(asked.name, options, minutes=asked.minutes)}\n")


if __name__ == "__main__":
    main()
