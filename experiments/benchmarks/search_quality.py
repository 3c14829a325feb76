"""How good every strategy is after so many candidates, on networks recorded for real and on synthetic ones.

No network is evaluated: `autoprune.testing` interpolates what was, so that a comparison takes minutes on one core and
is the same on every machine. Run from the repository's root:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.search_quality [--strategies auto,tpe] [--seeds 0,1] [--no-write]

Accuracies are of the incumbent without noise, in points; *regret* is what is missing to the best structure known, which
a hill climb on the noiseless accuracy finds. Fronts are compared by the hypervolume over 20 to 80 % of the FLOPs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.core.candidate import Evaluation
from autoprune.core.cost import FloatArray
from autoprune.core.front import ParetoFront, hypervolume
from autoprune.core.seeds import generator
from autoprune.core.structure import Structure
from autoprune.report.records.progress import kendall_tau
from autoprune.strategies import make_strategy
from autoprune.testing import Landscape, Simulation, resnet_landscape, simulate, table_names, tabular_landscape
from experiments.benchmarks.common import write

STRATEGIES = ("auto", "tpe", "pso", "mopso", "nsga2", "sensitivity", "random", "uniform")
CANDIDATES, WORKERS = 100, 4
#: Candidates after which the incumbent is looked at.
CHECKPOINTS = (20, 40, 100)
BUDGETS = ("35%flops", "50%flops", "65%flops")
BAND = "20..80%flops"
SEEDS = (0, 1, 2, 3, 4)
#: Rounds of the hill climb without a gain before it ends.
_PATIENCE = 30
#: Costs that the best known front is climbed at.
_FRONT_POSITIONS = 13

Make = Callable[[int], Landscape]


def landscapes(names: Sequence[str], budget: str) -> dict[str, Make]:
    """Returns {name: landscape of a seed}: recorded tables, whose seed draws the noise, and synthetic networks."""
    synthetic = {"synthetic-9": 3, "synthetic-27": 9}

    def recorded(name: str) -> Make:
        return lambda seed: tabular_landscape(name, budget=budget, seed=seed)

    def drawn(blocks: int) -> Make:
        return lambda seed: resnet_landscape(seed=seed, blocks=blocks, budget=budget)

    found = {name: recorded(name) for name in table_names()} | {one: drawn(size) for one, size in synthetic.items()}
    return {name: make for name, make in found.items() if not names or name in names}


def best_known(landscape: Landscape, starts: Sequence[Structure]) -> float:
    """Returns the best accuracy that hill climbs on the noiseless accuracy find from the best of some structures."""
    rng = generator(0, "climb")
    ranked = sorted(set(starts), key=lambda one: -landscape.accuracy(one))
    best = landscape.accuracy(ranked[0])
    for structure in ranked[:3]:
        value, idle = landscape.accuracy(structure), 0
        while idle < _PATIENCE:
            near = landscape.space.exchange(structure, rng, count=32, reach=0.3)
            found = max(near, key=landscape.accuracy)
            idle += 1
            if landscape.accuracy(found) > value:
                structure, value, idle = found, landscape.accuracy(found), 0
        best = max(best, value)
    return best


def front_volume(landscape: Landscape, evaluations: Sequence[Evaluation]) -> float:
    """Returns the hypervolume of the front that the scores show, at its noiseless accuracies, over 20 to 80 %."""
    dense = landscape.space.cost_model.dense.macs
    legal = [one for one in evaluations if landscape.space.is_legal(one.candidate.structure)]
    front = ParetoFront.of(legal)
    points = [(landscape.accuracy(e.candidate.structure), e.candidate.cost.macs / dense) for e in front]
    return hypervolume(points, (0.0, 0.8)) / 0.6


def interval(values: Sequence[float]) -> list[float]:
    """Returns mean, and lower and upper end of the 90 % bootstrap interval of the mean, in points."""
    array = 100 * np.asarray(values)
    draws = generator(0, "bootstrap").choice(array, (2000, len(array))).mean(axis=1)
    return [round(float(one), 2) for one in (array.mean(), *np.quantile(draws, (0.05, 0.95)))]


def searched(strategy: str, landscape: Landscape, seed: int) -> tuple[Simulation, float]:
    """Returns a simulated search and the processor seconds a candidate that it took the driver."""
    made = make_strategy(strategy, space=landscape.space, profile=landscape.profile, seed=seed, candidates=CANDIDATES)
    found = simulate(made, landscape, candidates=CANDIDATES, workers=WORKERS, seed=seed)
    return found, found.driver_seconds / max(1, len(found.evaluations))


def accuracy_after(found: Simulation, candidates: int) -> float:
    """Returns the accuracy of the incumbent when so many candidates had their last word."""
    return next((step.accuracy for step in reversed(found.steps) if step.candidates <= candidates), 0.0)


def single(make: Make, strategies: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Returns accuracies and regrets of every strategy on one budget."""
    found = {name: [searched(name, make(seed), seed)[0] for seed in seeds] for name in strategies}
    best = []
    for index, seed in enumerate(seeds):
        tried = [e.candidate.structure for runs in found.values() for e in runs[index].evaluations]
        landscape = make(seed)
        best.append(best_known(landscape, [one for one in tried if landscape.space.is_legal(one)]))
    return {
        "best_known": round(100 * float(np.mean(best)), 2),
        **{
            name: {
                "accuracy": interval([run.accuracy for run in runs]),
                "regret": interval([top - run.accuracy for top, run in zip(best, runs, strict=True)]),
                "after": {
                    str(count): round(100 * float(np.mean([accuracy_after(run, count) for run in runs])), 2)
                    for count in CHECKPOINTS
                },
            }
            for name, runs in found.items()
        },
    }


def fronts(make: Make, strategies: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Returns the hypervolume of every strategy over the band, as a share of a front at 100 %."""
    return {
        name: interval([front_volume(make(seed), searched(name, make(seed), seed)[0].evaluations) for seed in seeds])
        for name in strategies
    }


def errors(name: str) -> dict[str, Any]:
    """Returns how well a table's interpolation foretells what it has not seen."""
    landscape = tabular_landscape(name)
    recorded, left_out = landscape.left_out()
    share = landscape.shares()
    near = np.abs(share - 0.5) < 0.02
    best = near & (recorded >= np.quantile(recorded[near], 0.5))
    return {
        "structures": len(recorded),
        "all": _agreement(recorded, left_out),
        "at 48..52 % of the FLOPs": _agreement(recorded[near], left_out[near]),
        "the better half of them": _agreement(recorded[best], left_out[best]),
        "failed": len(landscape.table.failures),
        "seconds": [round(float(one), 3) for one in np.median(landscape.table.seconds, axis=0)],
        "provenance": dict(landscape.table.provenance),
    }


def _agreement(recorded: FloatArray, left_out: FloatArray) -> dict[str, Any]:
    error = float(np.sqrt(np.mean((recorded - left_out) ** 2)))
    tau = kendall_tau(list(zip(recorded.tolist(), left_out.tolist(), strict=True)))
    return {"structures": len(recorded), "rms_points": round(100 * error, 2), "tau": tau and round(tau, 3)}


def table_of(figures: Mapping[str, Any], strategies: Sequence[str]) -> str:
    """Returns the figures as text, a line a landscape."""
    lines = [f"{'':34}" + "".join(f"{name:>13}" for name in ("best known", *strategies))]
    for landscape, budgets in figures.items():
        for budget, row in budgets.items():
            cells = [row.get("best_known", "")] + [
                (row[name]["accuracy"] if isinstance(row[name], dict) else row[name])[0] for name in strategies
            ]
            lines.append(f"{landscape + ' ' + budget:34}" + "".join(f"{cell:>13}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--landscapes", default="", help="all by default")
    parser.add_argument("--budgets", default=",".join((*BUDGETS, BAND)))
    parser.add_argument("--no-write", action="store_true", help="print only")
    asked = parser.parse_args()
    strategies = asked.strategies.split(",")
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    names = [name for name in asked.landscapes.split(",") if name]
    began, figures = time.perf_counter(), {}
    for budget in asked.budgets.split(","):
        for name, make in landscapes(names, budget).items():
            compared = fronts if budget == BAND else single
            figures.setdefault(name, {})[budget] = compared(make, strategies, seeds)
            sys.stderr.write(f"{name} {budget}: {time.perf_counter() - began:.0f} s\n")
    sys.stdout.write(table_of(figures, strategies) + "\n")
    if not asked.no_write:
        circumstances = {"candidates": CANDIDATES, "workers": WORKERS, "seeds": seeds}
        tables = {name: errors(name) for name in table_names()}
        write(
            "search_quality",
            {**circumstances, "tables": tables, "found": figures},
            packages=("numpy", "optuna", "pymoo"),
        )


if __name__ == "__main__":
    main()
