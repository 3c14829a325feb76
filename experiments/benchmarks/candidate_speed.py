"""How many candidates a second are evaluated, against the same evaluation written plainly, in the same run.

Run from the repository's root, with AUTOPRUNE_DATA_ROOT and AUTOPRUNE_WEIGHTS_ROOT set:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.candidate_speed [NETWORK ...]

A candidate is one structure at the top rung: cut, sequentially reconstructed on 512 images, scored on 4,000 held-out
ones. Both sides are given the same statistics of the dense network and evaluate the same structures in turns; their
scores must agree. Times are CPU seconds of one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from autoprune.core.candidate import Candidate, Evaluation, Fidelity
from autoprune.core.seeds import generator
from autoprune.core.structure import Structure
from autoprune.data.images import preprocess
from autoprune.searching.search.preparation import Prepared
from experiments.benchmarks.cifar import prepared
from experiments.benchmarks.common import write
from experiments.benchmarks.plain_evaluation import PlainEvaluator

NETWORKS = ("cifar/resnet20-b", "cifar/resnet56-b")
STRUCTURES = 2
Evaluate = Callable[[Structure, Fidelity], dict[str, float]]
#: Largest difference of a score: sums in another order, and at worst an image at the edge between two classes.
_SAME = 1e-3


def compare(spec: str) -> dict[str, Any]:
    """Returns CPU seconds a candidate of both sides for one network."""
    ready = prepared(spec)
    ours, theirs = _ours(ready), _plain(ready)
    structures = [ready.space.uniform(), *ready.space.sample(STRUCTURES - 1, generator(0, "structures"))]
    # The first evaluation of a worker prepares the hold-out for all that follow.
    ours(structures[0], ready.ladder.rungs[0])
    seconds: dict[str, list[float]] = {"autoprune": [], "plainly written": []}
    differences = []
    for structure in structures:
        found = []
        for name, evaluate in zip(seconds, (ours, theirs), strict=True):
            started = time.process_time()
            found.append(evaluate(structure, ready.ladder.top))
            seconds[name].append(time.process_time() - started)
        differences.append(max(abs(found[0][key] - found[1][key]) for key in found[1]))
    assert max(differences) < _SAME, differences
    ratios = [plain / own for own, plain in zip(*seconds.values(), strict=True)]
    top = ready.ladder.top
    return {
        "budget": list(ready.options.budgets),
        "calibration_images": top.calibration_images,
        "holdout_images": top.holdout_images,
        "structures": len(structures),
        "cpu_seconds_a_candidate": {name: round(median(found), 3) for name, found in seconds.items()},
        "largest_difference_of_scores": max(differences),
        "candidates_per_second_ratio": {"median": round(median(ratios), 2), "lowest": round(min(ratios), 2)},
    }


def _ours(ready: Prepared) -> Evaluate:
    factory = ready.factory("cpu")
    evaluator = factory.build(factory.arrays, worker="main")
    costs = ready.network.cost_model

    def evaluate(structure: Structure, rung: Fidelity) -> dict[str, float]:
        outcome = evaluator.evaluate(Candidate(0, structure, costs.cost(structure), rung, 0, "benchmark"))
        assert isinstance(outcome, Evaluation)
        return dict(outcome.metrics)

    return evaluate


def _plain(ready: Prepared) -> Evaluate:
    train, split, calibration = ready.problem.data.train, ready.split, ready.calibration
    layer = {call.call: call.layer for call in ready.network.calls}
    evaluator = PlainEvaluator(
        model=ready.problem.model,
        orders=[ranking.order for ranking in ready.rankings],
        targets={layer[call]: item for call, item in calibration.targets.items()},
        positions={layer[call]: item for call, item in calibration.positions.items()},
        images=train.take(split.calibration),
        pixels=torch.from_numpy(train.pixels[split.holdout]),
        labels=torch.from_numpy(train.labels[split.holdout]),
        preprocess=lambda pixels: preprocess(pixels, train.preprocessing),
    )
    return lambda structure, _: evaluator.evaluate(structure.widths)


if __name__ == "__main__":
    write(
        "candidate_speed",
        {spec: compare(spec) for spec in sys.argv[1:] or NETWORKS},
        packages=("torch", "torchvision", "numpy"),
    )
