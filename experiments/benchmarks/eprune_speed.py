"""How long EPruner's affinity propagation takes for a whole network, on one thread and without a GPU.

Run from the repository's root, with AUTOPRUNE_WEIGHTS_ROOT set:

    python -m experiments.benchmarks.eprune_speed

Timed is `prune`: from a traced network to the kept channels, with the distances between filters; loading and tracing
are not. VGG-16 has random weights, because no public ones were at hand: all its filters have nearly the same norm, so
that most are exemplars and messages settle early or not at all, as they happen to. ResNet-56 has its trained weights.
As published, every group is clustered once; within a budget, once a step of the bisection. EPruner's paper claims
seconds on a CPU; its table of seconds could not be had.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from autoprune.core.budget import parse_budgets
from autoprune.core.space import SearchSpace
from autoprune.data.bundle import bundle_from
from autoprune.methods.base import Subject
from autoprune.methods.eprune import EPrune
from autoprune.models.reduction.calibration import Calibration
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import restricted
from autoprune.models.zoo.catalogue import build_model
from experiments.benchmarks.common import write

NETWORKS = {"cifar/vgg16": None, "cifar/resnet56-b": "resnet56_b_cifar10.pt"}
METHODS = {"as published": EPrune(as_published=True), "50 % of the FLOPs": EPrune()}
REPEATS = 3


def subject(spec: str, weights: str | None) -> Subject:
    """Returns a subject without data: EPruner reads weights only."""
    torch.manual_seed(0)
    path = None if weights is None else Path(os.environ["AUTOPRUNE_WEIGHTS_ROOT"]) / weights
    model, image = build_model(spec, weights=path), torch.zeros(1, 3, 32, 32)
    network = trace(model, image)
    network = restricted(network, {group.name for group in network.groups if not group.coupled})
    labels, nothing = torch.zeros(1, dtype=torch.int64), np.empty(0, dtype=np.int64)
    return Subject(
        model=model,
        network=network,
        space=SearchSpace.build(network.groups, network.cost_model, parse_budgets("50%flops")),
        calibration=Calibration({}, {}, {}),
        rankings=(),
        profile=_no_profile,
        images=image,
        data=bundle_from((image, labels), (image, labels)),
        calibration_indices=nothing,
        training=nothing,
        holdout=nothing,
        epochs=0.0,
        device=torch.device("cpu"),
        seed=0,
    )


def measured(given: Subject) -> dict[str, Any]:
    """Returns seconds and result of every way."""
    found: dict[str, Any] = {}
    for name, method in METHODS.items():
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            pruned = method.prune(given)
            times.append(time.perf_counter() - start)
        structure = pruned.kept.structure
        share = given.space.cost(structure).macs / given.space.cost_model.dense.macs
        found[name] = {
            "seconds": {"best": round(min(times), 3), "median": round(median(times), 3)},
            "flops_left": round(share, 4),
            "widths": " ".join(map(str, structure.widths)),
            **pruned.facts,
        }
    return found


def _no_profile() -> Any:
    raise AssertionError("EPruner reads no profile.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        figures = {
            spec: {
                "weights": weights or "random",
                "filters": sum(group.width for group in given.network.groups),
                **measured(given),
            }
            for spec, weights in NETWORKS.items()
            for given in [subject(spec, weights)]
        }
    write("eprune_speed", figures, packages=("torch", "numpy", "scikit-learn"))
