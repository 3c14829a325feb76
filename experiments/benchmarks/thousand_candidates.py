"""A search of 1,000 candidates from its end to a picked network: sizes and times.

The search is real in everything but its evaluations, which a formula replaces, and its proposals, which are random
(`proposal_speed` times others): ledger, MLflow store, pages and the networks that are finished. Run from the
repository's root:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.thousand_candidates [FOLDER]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

from autoprune.core.candidate import Candidate, Evaluation
from autoprune.core.seeds import generator
from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.search.api import run_search
from autoprune.searching.search.preparation import Prepared
from autoprune.tracking.mlflow_tracker import MlflowTracker
from experiments.benchmarks.common import write

CANDIDATES = 1000


class Formulas:
    """Makes evaluators that need no images."""

    arrays: Mapping[str, Any] = {}

    def build(self, _arrays: object, *, worker: str) -> Formula:
        """Returns the evaluator of a worker."""
        del worker
        return Formula()


class Formula:
    """An evaluator whose accuracy grows with the channels kept, and with the luck of the candidate."""

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Returns a score at once."""
        luck = float(generator(candidate.seed, "score").uniform())
        score = 0.5 + 0.4 * luck * min(1.0, sum(candidate.structure.widths) / 100)
        return Evaluation(candidate, score=score, accuracy=score, seconds=0.01)


def searched(run: Path) -> float:
    """Returns the seconds of a search of 1,000 candidates whose evaluations take no time: mostly records."""
    options = SearchOptions(
        candidates=CANDIDATES,
        backend="serial",
        front="30..80%flops",
        budgets=(),
        out=run,
        finetune_epochs=0.0,
        strategy="random",
    )
    start = time.perf_counter()
    patient = partialmethod(MlflowTracker.close, seconds=3600.0)
    with patch.object(Prepared, "factory", lambda *_: Formulas()), patch.object(MlflowTracker, "close", patient):
        run_search(options, observer=NullObserver())
    return time.perf_counter() - start


def commanded(*arguments: str) -> dict[str, float]:
    """Returns wall and processor seconds of a command in a process of its own."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "autoprune", *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(time.perf_counter() - start, 1), "cpu_s": round(cpu, 1)}


def main(folder: Path) -> None:
    """Measures and writes the results file."""
    run = folder / "run"
    seconds = searched(run)
    figures = {
        "candidates": CANDIDATES,
        "search_s": round(seconds, 1),
        "front_html_kB": round((run / "front.html").stat().st_size / 1e3, 1),
        "ledger_kB": round((run / "ledger.jsonl").stat().st_size / 1e3, 1),
        "mlflow_db_MB": round((folder / "mlflow.db").stat().st_size / 1e6, 1),
        "pick": commanded("pick", str(run), "--budget", "50%flops", "--no-mlflow"),
        "pick_and_register": commanded("pick", str(run), "--budget", "50%flops", "--register", "thousand"),
        "report": commanded("report", str(run)),
        "report_html_kB": round((run / "report.html").stat().st_size / 1e3, 1),
    }
    write("thousand_candidates", figures, packages=("mlflow", "torch", "numpy"))


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            main(Path(place))
