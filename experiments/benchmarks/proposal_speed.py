"""How long each strategy takes to propose, with 1,000 candidates behind it, at 21, 51 and 111 groups.

Each searches the synthetic landscape by itself; asks and tells take turns, and the last asks are timed in processor
time. The Gaussian process, which is for few candidates, has 200 behind it, and the measurement of sensitivities as many
as it wants. Run from the repository's root:

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m experiments.benchmarks.proposal_speed
"""

from __future__ import annotations

import time
from statistics import mean, median

from autoprune.core.candidate import Candidate
from autoprune.strategies import make_strategy
from autoprune.testing import resnet_landscape
from experiments.benchmarks.common import write

CANDIDATES, TIMED = 1000, 30
LEARNING = ("auto", "sensitivity", "pso", "mopso", "nsga2", "tpe")
#: {strategy: candidates before those that are timed, at most}
STRATEGIES = {**dict.fromkeys((*LEARNING, "random"), CANDIDATES), "gp": 200}
#: Residual blocks a stage: three groups each.
BLOCKS = (7, 17, 37)
TARGET_MS = 50.0


def milliseconds_of(name: str, blocks: int) -> dict[str, float]:
    """Returns median, mean and slowest of the last asks, and the number of candidates before them."""
    scene = resnet_landscape(seed=0, blocks=blocks)
    total = STRATEGIES[name] + TIMED
    strategy = make_strategy(name, space=scene.space, profile=None, seed=0, candidates=total)
    asks: list[float] = []
    for number in range(total):
        began = time.process_time()
        asked = strategy.ask(number)
        if asked is None:
            break
        asks.append(1e3 * (time.process_time() - began))
        cost, rung = scene.space.cost(asked), scene.ladder.top
        strategy.tell(scene.evaluate(Candidate(number, asked, cost, rung, number, name)))
    last = asks[-TIMED:]
    return {
        "candidates_before": len(asks) - len(last),
        "median_ms": round(median(last), 1),
        "mean_ms": round(mean(last), 1),
        "slowest_ms": round(max(last), 1),
    }


def main() -> None:
    """Measures and writes."""
    found = {name: {f"{3 * blocks} groups": milliseconds_of(name, blocks) for blocks in BLOCKS} for name in STRATEGIES}
    figures = {"asks": TIMED, "target_ms": TARGET_MS, "found": found}
    write("proposal_speed", figures, packages=("numpy", "optuna", "pymoo"))


if __name__ == "__main__":
    main()
