"""How many structures of a ResNet-50 a second are priced, exactly, on one core.

Run from the repository's root, numpy held to one core:

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m experiments.benchmarks.cost_speed
"""

from __future__ import annotations

import numpy as np
import torch

from autoprune.core.structure import Structure
from autoprune.models.costing.counting import count
from autoprune.models.cutting.surgery import cut, random_kept
from autoprune.models.tracing.tracer import trace
from autoprune.models.zoo.catalogue import build_model
from experiments.benchmarks.common import milliseconds, write

POPULATION = 50_000


def price() -> dict[str, object]:
    """Returns structures a second for each resource and for both."""
    model = build_model("torchvision/resnet50")
    network = trace(model, torch.zeros(1, 3, 224, 224))
    rng = np.random.default_rng(0)
    dense = np.array([group.width for group in network.groups])
    widths = rng.integers(1, dense + 1, (POPULATION, len(dense)))
    costs = network.cost_model
    one = Structure(tuple(int(width) for width in widths[0]))
    assert count(cut(model, network, random_kept(network, one, rng)), (1, 3, 224, 224)) == costs.cost(one)
    found = milliseconds(
        {
            "macs": lambda: costs.costs("macs", widths),
            "params": lambda: costs.costs("params", widths),
            "both": lambda: [costs.costs(name, widths) for name in ("macs", "params")],
        },
        repeats=9,
    )
    return {
        "network": "torchvision/resnet50",
        "groups": len(dense),
        "tensors": len(costs.terms),
        "population": POPULATION,
        "structures_per_second": {
            name: {kind: int(POPULATION / (value / 1e3)) for kind, value in times.items()}
            for name, times in found.items()
        },
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    write("cost_speed", price(), packages=("torch", "torchvision", "numpy"))
