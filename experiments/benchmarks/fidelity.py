"""How fidelity, which needs no labels, ranks structures, against the metric of their labels.

Run from the repository's root:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.fidelity [NETWORK ...]

Structures on half of the FLOPs, drawn at random, are cut and reconstructed without training. Both numbers are of the
same test images: what of the dense network's outputs is kept (`--task outputs`), and the accuracy of a classifier or
the mIoU of a segmentation.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from autoprune.core.candidate import Candidate, Evaluation
from autoprune.core.cost import FloatArray
from autoprune.core.seeds import generator
from autoprune.data.answers import Answers
from autoprune.data.images import ArrayImages
from autoprune.evaluation.scoring import logits_of
from autoprune.report.observer import NullObserver
from autoprune.searching.experiments.agreement import agreement
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import load_problem
from autoprune.searching.search.finish import Finisher
from autoprune.searching.search.preparation import prepare
from autoprune.tasks.registry import OUTPUTS
from autoprune.training.measure import measure
from experiments.benchmarks.common import write

NETWORKS = ("digits/unet", "digits/resnet", "digits/vit")
BUDGET, STRUCTURES = "50%flops", 24


def judged(spec: str) -> tuple[str, FloatArray]:
    """Returns the name of a network's metric, and (S, 2) its value and the fidelity of every structure."""
    observer, options = NullObserver(), SearchOptions(model=spec, budgets=(BUDGET,))
    prepared = prepare(load_problem(options, observer), options, observer)
    finisher, dense, data = Finisher(prepared, observer, epochs=0.0), prepared.problem.model, prepared.problem.data
    assert isinstance(data.test, ArrayImages)
    said = logits_of(dense, data.test, np.arange(len(data.test)), torch.device("cpu"), task=OUTPUTS)
    unlabelled = replace(data.test, annotations=Answers(said.numpy()))
    rows = []
    for index, structure in enumerate(prepared.space.sample(STRUCTURES, generator(0, "fidelity", spec))):
        cost, rung = prepared.space.cost_model.cost(structure), prepared.ladder.rungs[-1]
        candidate = Candidate(id=index, structure=structure, cost=cost, fidelity=rung, proposed_by="random", seed=0)
        finished = finisher.finish("a structure", Evaluation(candidate, score=0.0, accuracy=0.0, seconds=0.0))
        kept = measure(finished.model, unlabelled, task=OUTPUTS).accuracy
        rows.append((finished.scores.accuracy, kept))
    return data.task.reported, np.asarray(rows)


def main(arguments: Sequence[str]) -> None:
    """Writes results/fidelity.json, or prints the figures where only some networks are asked for."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"budget": BUDGET, "structures": STRUCTURES, "networks": {}}
    for spec in arguments or NETWORKS:
        started = time.process_time()
        metric, rows = judged(spec)
        figures["networks"][spec] = {
            "metric": metric,
            **agreement(rows[:, 1], rows[:, 0], generator(0, "agreement", spec)),
            "pairs": [[round(100 * float(value), 2) for value in row] for row in rows],
            "seconds": round(time.process_time() - started, 1),
        }
    if arguments:
        sys.stdout.write(f"{figures}\n")
    else:
        write("fidelity", figures, packages=("torch", "numpy"))


if __name__ == "__main__":
    main(sys.argv[1:])
