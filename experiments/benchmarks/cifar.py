"""Networks that benchmarks share: those of CIFAR-10, and by their names those that come with the program.

Weights are looked up under AUTOPRUNE_WEIGHTS_ROOT, images under AUTOPRUNE_DATA_ROOT.
"""

from __future__ import annotations

from typing import Any

import torch

from autoprune.config.options import check_options
from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import load_problem
from autoprune.searching.search.preparation import Prepared, prepare

WEIGHTS = {
    "cifar/resnet8": "resnet8_cifar10.pt",
    "cifar/resnet20-a": "resnet20_a_cifar10.pt",
    "cifar/resnet20-b": "resnet20_b_cifar10.pt",
    "cifar/resnet56-a": "resnet56_a_cifar10.pt",
    "cifar/resnet56-b": "resnet56_b_cifar10.pt",
    "cifar/densenet40-nobn": "densenet40_k12_nobn_cifar10.pt",
}


def prepared(spec: str, **options: Any) -> Prepared:
    """Returns a search of a network, ready to run on one thread: half the FLOPs, channels inside blocks."""
    given = {
        "model": spec,
        **({"weights": WEIGHTS[spec], "data": "cifar10"} if spec in WEIGHTS else {}),
        "budgets": ["50%flops"],
        "scope": "internal",
        "backend": "serial",
        **options,
    }
    made = SearchOptions(**check_options(given, strategies=["auto"]))
    ready = prepare(load_problem(made, NullObserver()), made, NullObserver())
    torch.set_num_threads(1)
    return ready
