"""Whether the driver keeps up: what it needs per candidate at 64 workers, and how busy it keeps two real ones.

The 64 are simulated, the study, its strategies and its ledger on the disk are not. The two are Ray workers whose
evaluations sleep for a second. Run from the repository's root:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.driver_speed
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.backends import RayBackend
from autoprune.core.candidate import Candidate, Evaluation, Ladder
from autoprune.core.seams import BackendReport
from autoprune.strategies.registry import make_strategy
from autoprune.study import Ledger, Study
from autoprune.testing.landscape import Landscape, resnet_landscape
from autoprune.testing.simulation import Crew, drive
from experiments.benchmarks.common import write

WORKERS, CANDIDATES = 64, 400
STRATEGIES = ("random", "auto", "nsga2")


@dataclass
class Sleeper:
    """Evaluates by sleeping."""

    seconds: float

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Returns a score that depends on nothing but the id."""
        time.sleep(self.seconds)
        return Evaluation(candidate, 1 / (2 + candidate.id), 0.5)


@dataclass
class Sleepers:
    """Builds sleepers."""

    seconds: float
    arrays: dict[str, Any] = field(default_factory=lambda: {"nothing": np.zeros(1)})

    def build(self, arrays: object, *, worker: str) -> Sleeper:  # noqa: ARG002 (the seam's signature)
        """Returns a sleeper."""
        return Sleeper(self.seconds)

    def for_workers(self, *, gpu: bool) -> Sleepers:  # noqa: ARG002 (the seam's signature)
        """Returns a light copy."""
        return replace(self, arrays={})


def study_of(
    scene: Landscape, strategy: str, ledger: Ledger, *, candidates: int, ladder: Ladder | None = None
) -> Study:
    """Returns a fresh study."""
    made = make_strategy(strategy, space=scene.space, profile=scene.profile, seed=0, candidates=candidates)
    baselines = [("uniform", scene.space.uniform())]
    return Study(
        scene.space,
        made,
        ladder or scene.ladder,
        candidates=candidates,
        seed=0,
        baselines=baselines,
        trackers=[ledger],
    )


def simulated(strategy: str) -> dict[str, float]:
    """Returns what the driver needs for a search on simulated workers."""
    scene = resnet_landscape(seed=0, rungs=2)
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "ledger.jsonl"), run={}) as ledger:
        study = study_of(scene, strategy, ledger, candidates=CANDIDATES)
        seconds = drive(study, scene, crew=Crew(WORKERS, spread=0.8)).driver_seconds
    return {
        "candidates": study.proposed,
        "evaluations": len(study.evaluations),
        "driver_seconds": round(seconds, 3),
        "candidates_per_second": round(study.proposed / seconds, 1),
    }


def on_ray(candidates: int, seconds: float) -> dict[str, float]:
    """Returns how busy two Ray workers were."""
    scene = resnet_landscape(seed=0, rungs=2)
    one_rung = Ladder(scene.ladder.rungs[:1])
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "ledger.jsonl"), run={}) as ledger:
        study = study_of(scene, "auto", ledger, candidates=candidates, ladder=one_rung)
        report: BackendReport = RayBackend(2).run(study, Sleepers(seconds), should_stop=lambda: False)
    return {
        "evaluation_seconds": seconds,
        "evaluations": report.evaluations,
        "utilisation": round(report.utilisation, 4),
        "overhead_seconds": round(report.overhead, 4),
        "candidates_per_second": round(report.evaluations / report.seconds, 2),
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=60, help="on the Ray workers")
    count = parser.parse_args().evaluations
    figures = {
        "simulated_workers": WORKERS,
        "driver": {name: simulated(name) for name in STRATEGIES},
        "two_ray_workers": on_ray(count, 1.0),
    }
    write("driver_speed", figures, packages=("ray", "numpy", "optuna", "pymoo"))


if __name__ == "__main__":
    main()
