"""Whether a search scales: the real study over recorded evaluations in simulated time, 1 to 1,024 workers.

Evaluations take half a minute in the mean, as short finetunes do, and their times are heavy-tailed (Pareto, index 1.5:
of a thousand one takes 60 times the median); one in twenty fails, and workers wait for the driver, whose own processor
time passes in the simulation, too. The target is what `auto` finds with one worker and 100 candidates. Run from the
repository's root:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.simulated_scale

Writes results/simulated_scale.json and, beside it, simulated_scale.svg.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from autoprune.core.candidate import Candidate
from autoprune.report.pictures.figures import legend, legend_height
from autoprune.report.pictures.svg import Axes, Drawing
from autoprune.strategies import make_strategy
from autoprune.study import Ledger, Study
from autoprune.testing import Crew, Landscape, Simulation, tabular_landscape
from autoprune.testing.simulation import drive
from experiments.benchmarks.common import RESULTS, write

TABLE, BUDGET = "digits-resnet", "50%flops"
STRATEGIES = ("auto", "random")
WORKERS = (1, 4, 16, 64, 256, 1024)
SEEDS = (0, 1, 2, 3, 4)
TAIL, FAILURES = 1.5, 0.05
#: Mean seconds of an evaluation.
SECONDS = 30.0
#: Candidates of a search: enough to fill every worker this often, and never fewer than those of a long search.
_ROUNDS, _FEWEST = 3, 1_000
_USUAL = 100


def candidates_for(workers: int) -> int:
    """Returns how many candidates a search with so many workers proposes."""
    return max(_FEWEST, _ROUNDS * workers)


def simulated(strategy: str, workers: int, seed: int) -> Simulation:
    """Returns one search with its ledger on the disk."""
    sys.stderr.write(f"{strategy}, {workers} workers\n")
    scene, count = tabular_landscape(TABLE, budget=BUDGET, rungs=2, seed=seed), candidates_for(workers)
    made = make_strategy(strategy, space=scene.space, profile=scene.profile, seed=seed, candidates=count)
    baselines = [("uniform", scene.space.uniform())]
    crew = Crew(workers, pace=SECONDS / _recorded_seconds(scene), tail=TAIL, failures=FAILURES, slow_driver=True)
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "ledger.jsonl"), run={}) as ledger:
        study = Study(
            scene.space, made, scene.ladder, candidates=count, seed=seed, baselines=baselines, trackers=[ledger]
        )
        return drive(study, scene, crew=crew, seed=seed)


def _recorded_seconds(scene: Landscape) -> float:
    """Returns how long uniform widths take on the first rung, as they were recorded."""
    uniform = scene.space.uniform()
    return scene.evaluate(Candidate(0, uniform, scene.space.cost(uniform), scene.ladder.rungs[0], 0, "")).seconds


def summarised(runs: Sequence[Simulation], target: float, *, candidates: int) -> dict[str, Any]:
    """Returns medians over the seeds."""
    reached = [run.seconds_to(target) for run in runs]
    known = [one for one in reached if one is not None]
    return {
        "candidates": candidates,
        "seconds_to_target": round(median(known), 1) if 2 * len(known) > len(runs) else None,
        "reached": f"{len(known)} of {len(runs)}",
        "seconds": round(median(run.seconds for run in runs), 1),
        "driver_ms_per_candidate": round(1e3 * median(run.driver_seconds / candidates for run in runs), 2),
        "utilisation": round(median(run.utilisation for run in runs), 4),
        "accuracy": round(100 * median(run.accuracy for run in runs), 2),
    }


def picture(figures: Mapping[str, Any]) -> Drawing:
    """Returns time to the target, utilisation and driver load against the number of workers."""
    drawing = Drawing(900, 400, "Simulated searches with 1 to 1,024 workers")
    panels = (
        ("seconds_to_target", "time to the target", 34),
        ("utilisation", "utilisation of the workers", 324),
        ("driver_ms_per_candidate", "driver, ms per candidate", 624),
    )
    for key, title, left in panels:
        _panel(drawing, figures, key=key, title=title, left=left)
    entries = [(name, index) for index, name in enumerate(figures)]
    assert legend_height(entries, 900) < 40
    legend(drawing, entries, top=362)
    return drawing


def _panel(drawing: Drawing, figures: Mapping[str, Any], *, key: str, title: str, left: int) -> None:
    points = {
        name: [
            (math.log(int(workers), 4), _shown(key, row[key])) for workers, row in rows.items() if row[key] is not None
        ]
        for name, rows in figures.items()
    }
    values = [value for row in points.values() for _, value in row]
    timed = key == "seconds_to_target"
    lowest = math.floor(min(values)) if timed else 0.0
    highest = 1.0 if key == "utilisation" else math.ceil(max(values)) if timed else max(values) * 1.08
    axes = Axes(drawing, (left + 26, 34, left + 252, 310), (-0.2, 5.2), (lowest, highest))
    axes.grid(
        x_name="workers",
        y_name="",
        x_text=lambda value, _: f"{4 ** round(value):,}",
        y_text=lambda value, _: _lasting(10**value) if timed else f"{value:.1f}" if highest < 10 else f"{value:.0f}",
        x_ticks=6,
        y_ticks=round(highest - lowest) if timed else 5,
        whole=True,
    )
    drawing.text(left + 26, 20, title, class_="label")
    for colour, row in enumerate(points.values()):
        path = "".join(f"{'L' if index else 'M'}{axes.x(x):.1f} {axes.y(y):.1f}" for index, (x, y) in enumerate(row))
        drawing.add("path", class_=f"curve s{colour}", d=path)
        for x, y in row:
            drawing.add("circle", class_=f"f{colour}", cx=axes.x(x), cy=axes.y(y), r=3.5)


def _lasting(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


def _shown(key: str, value: float) -> float:
    return math.log10(value) if key == "seconds_to_target" else value


def main() -> None:
    """Measures, draws and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most-workers", type=int, default=WORKERS[-1])
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many")
    asked = parser.parse_args()
    most, seeds = asked.most_workers, range(asked.seeds)
    runs = {
        name: {
            str(workers): [simulated(name, workers, seed) for seed in seeds] for workers in WORKERS if workers <= most
        }
        for name in STRATEGIES
    }
    target = _target(runs)
    found = {
        name: {count: summarised(some, target, candidates=candidates_for(int(count))) for count, some in rows.items()}
        for name, rows in runs.items()
    }
    figures = {
        "table": TABLE,
        "budget": BUDGET,
        "seeds": list(seeds),
        "tail": TAIL,
        "failures": FAILURES,
        "seconds_an_evaluation": SECONDS,
        "target_accuracy": round(100 * target, 2),
        "found": found,
    }
    write("simulated_scale", figures, packages=("numpy",))
    (RESULTS / "simulated_scale.svg").write_text(picture(found).file(), encoding="utf-8")


def _target(runs: Mapping[str, Mapping[str, Sequence[Simulation]]]) -> float:
    """Returns what `auto` has found after the candidates of a usual search, with one worker."""
    return median(max(step.accuracy for step in run.steps if step.candidates <= _USUAL) for run in runs["auto"]["1"])


if __name__ == "__main__":
    main()
