"""How long the default takes to propose, with 1,000 candidates behind it, at 21, 51 and 111 groups.

The candidates are random structures of the synthetic landscape, told all at once; then asks and tells take turns, and
the asks are timed in processor time. Run from the repository's root:

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m experiments.benchmarks.proposal_speed
"""

from __future__ import annotations

import time
from statistics import median

from autoprune.core.candidate import Candidate
from autoprune.core.seeds import generator
from autoprune.core.structure import Structure
from autoprune.strategies import make_strategy
from autoprune.testing import resnet_landscape
from experiments.benchmarks.common import write

#: Those that hear of candidates that others proposed; swarms and Optuna learn from their own alone.
STRATEGIES = ("auto", "random")
#: Residual blocks a stage: three groups each.
BLOCKS = (7, 17, 37)
CANDIDATES, TIMED = 1000, 30
TARGET_MS = 50.0


def milliseconds_of(name: str, blocks: int) -> dict[str, float]:
    """Returns median and slowest ask."""
    scene = resnet_landscape(seed=0, blocks=blocks)
    strategy = make_strategy(name, space=scene.space, profile=None, seed=0, candidates=CANDIDATES + TIMED)

    def told(number: int, structure: Structure) -> None:
        cost, rung = scene.space.cost(structure), scene.ladder.top
        strategy.tell(scene.evaluate(Candidate(number, structure, cost, rung, number, name)))

    for number, structure in enumerate(dict.fromkeys(scene.space.sample(CANDIDATES, generator(0, "told")))):
        told(number, structure)
    asks = []
    for number in range(CANDIDATES, CANDIDATES + TIMED):
        began = time.process_time()
        asked = strategy.ask(number)
        asks.append(1e3 * (time.process_time() - began))
        if asked is not None:
            told(number, asked)
    return {"median_ms": round(median(asks), 1), "slowest_ms": round(max(asks), 1)}


def main() -> None:
    """Measures and writes."""
    found = {name: {f"{3 * blocks} groups": milliseconds_of(name, blocks) for blocks in BLOCKS} for name in STRATEGIES}
    figures = {"candidates_before": CANDIDATES, "asks": TIMED, "target_median_ms": TARGET_MS, "found": found}
    write("proposal_speed", figures, packages=("numpy",))


if __name__ == "__main__":
    main()
