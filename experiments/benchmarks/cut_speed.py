"""How long a cut takes, against Torch-Pruning doing the same cut in the same run.

Run from the repository's root, with Torch-Pruning beside the test requirements:

    pip install --no-deps torch-pruning==1.6.1
    python -m experiments.benchmarks.cut_speed

Both keep the same random half of the channels inside every block, and the results are compared before anything is
timed. autoprune makes the cut network from the dense one, which it leaves alone, and traces once. Torch-Pruning cuts in
place, so that each cut takes its own copy of the network and, as its graph refers to modules and cannot be copied, its
own graph. Ratios are given without both, with the copy alone, and with copy and graph. Both work from chosen indices;
choosing them is not timed.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import Tensor, nn

from autoprune.core.structure import Structure
from autoprune.models.cutting.surgery import cut, random_kept
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import restricted
from autoprune.models.zoo.catalogue import build_model, model_info
from experiments.benchmarks.common import milliseconds, write

NETWORKS = ("cifar/resnet56-b", "torchvision/resnet50")
REPEATS = 9


class TorchPruning:
    """The same cut by Torch-Pruning.

    Args:
        model: the dense network.
        removed: {layer: channels to remove}.
        example: an image batch to build graphs with.
    """

    def __init__(self, model: nn.Module, removed: dict[str, list[int]], example: Tensor) -> None:
        self._model, self._removed, self._example = model, removed, example
        self._ready: list[Any] = []

    def copy(self) -> nn.Module:
        """Returns a copy of the dense network."""
        return copy.deepcopy(self._model)

    def prepare(self) -> None:
        """Makes a copy with its graph, for one call of `prune`."""
        target = self.copy()
        self._ready = [target, torch_pruning.DependencyGraph().build_dependency(target, self._example)]

    def prune(self) -> nn.Module:
        """Prunes what was prepared, in place."""
        target, graph = self._ready
        for name, indices in self._removed.items():
            layer = target.get_submodule(name)
            graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, idxs=indices).prune()
        return target

    def whole(self) -> nn.Module:
        """Returns a pruned copy of the dense network."""
        self.prepare()
        return self.prune()


def compare(spec: str) -> dict[str, Any]:
    """Returns the milliseconds of every variant for one network."""
    model, shape = build_model(spec), model_info(spec).input_shape
    assert shape is not None
    example = torch.randn(1, *shape)
    network = trace(model, example)
    network = restricted(network, {group.name for group in network.groups if not group.coupled})
    structure = Structure(tuple(group.width // 2 for group in network.groups))
    kept = random_kept(network, structure, np.random.default_rng(0))
    removed = {
        group.name: np.setdiff1d(np.arange(group.width), index).tolist()
        for group, index in zip(network.groups, kept.indices, strict=True)
    }
    theirs = TorchPruning(model, removed, example)
    torch.testing.assert_close(theirs.whole().eval()(example), cut(model, network, kept)(example), rtol=1e-3, atol=1e-4)
    times = milliseconds(
        {
            "autoprune: cut": lambda: cut(model, network, kept),
            "autoprune: trace (once a network)": lambda: trace(model, example),
            "not counted": theirs.prepare,
            "torch-pruning: pruning": theirs.prune,
            "torch-pruning: copy of the network": theirs.copy,
            "torch-pruning: copy, graph and pruning": theirs.whole,
        },
        repeats=REPEATS,
    )
    del times["not counted"]
    ratio = {kind: ratios(times, kind) for kind in ("best", "median")}
    return {"groups": len(network.groups), "milliseconds": times, "ratio": ratio}


def ratios(times: dict[str, dict[str, float]], kind: str) -> dict[str, float]:
    """Returns how many times longer than a cut of autoprune each way of Torch-Pruning takes."""
    ours, _, pruning, copying, whole = (found[kind] for found in times.values())
    ways = {"pruning alone": pruning, "copy and pruning": copying + pruning, "copy, graph and pruning": whole}
    return {name: round(theirs / ours, 2) for name, theirs in ways.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(
        "cut_speed",
        {spec: compare(spec) for spec in NETWORKS},
        packages=("torch", "torchvision", "torch-pruning", "numpy"),
    )
