"""What a cut network is worth before any training: by merger, calibration images, their variation, and kept channels.

Run from the repository's root, with AUTOPRUNE_DATA_ROOT and AUTOPRUNE_WEIGHTS_ROOT set:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.zero_training [NETWORK ...]

Every group inside a block keeps the same share of its channels. Accuracies are of the first 1,000 hold-out images,
which the dense network may have seen, and of the first 1,000 test images (digits: 359 each, which it has not seen).
Seconds are CPU seconds of one thread for cut and merge.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.core.candidate import Merge
from autoprune.core.structure import Structure
from autoprune.data.augment import augment
from autoprune.data.preprocessing import Augmentation
from autoprune.models.cutting.folding import fastest_form
from autoprune.models.cutting.surgery import Kept
from autoprune.models.reduction.calibration import ROWS, Calibration, calibrate
from autoprune.models.reduction.elimination import DAMPING
from autoprune.models.reduction.merging import cut_and_merge
from autoprune.models.reduction.selection import keep_best, rank_groups
from autoprune.searching.search.finish import FINAL_IMAGES, final_rows
from autoprune.searching.search.preparation import Prepared
from autoprune.training.measure import measure
from experiments.benchmarks.cifar import prepared
from experiments.benchmarks.common import write

NETWORKS = ("cifar/resnet20-a", "cifar/resnet20-b", "digits/resnet", "digits/vit")
RETAINED = (0.5, 0.35, 0.75)
DAMPINGS = (0.01, DAMPING, 1.0)
IMAGES = (128, 512, 1024, 2048, FINAL_IMAGES)
USUAL = 512
SCORED = 1_000
VARIED = Augmentation(crop_padding=2, flip=True)
_SEED = 0


class Network:
    """A dense network with statistics on several sets of calibration images."""

    def __init__(self, ready: Prepared) -> None:
        self._ready = ready
        self._model = ready.problem.model
        data, split = ready.problem.data, ready.split
        images = data.train.take(split.training[: max(IMAGES)]).contiguous(memory_format=torch.channels_last)
        self._form = fastest_form(self._model, ready.network, images[:2])
        usual = images[:USUAL]
        self._sets = {str(USUAL): (usual, ROWS)}
        if data.name == "cifar10":
            varied = torch.cat([usual, augment(usual, VARIED, torch.Generator().manual_seed(_SEED))])
            self._sets |= {str(count): (images[:count], ROWS) for count in IMAGES}
            varied = varied.contiguous(memory_format=torch.channels_last)
            self._sets[f"{USUAL} and as many varied copies"] = (varied, ROWS)
            # As a search, `prune` and `pick` end.
            rows = final_rows(ready.network)
            self._sets[f"{rows} rows a layer of {FINAL_IMAGES}"] = (images[:FINAL_IMAGES], rows)
        # A search calibrates on the same images, the first of the training set.
        self._statistics: dict[str, Calibration] = {str(USUAL): ready.calibration}
        self._orders = {"norm": rank_groups(self._model, ready.network, ready.calibration)}
        for damping in DAMPINGS:
            self._orders[f"elimination damped by {damping:g}"] = rank_groups(
                self._model, ready.network, ready.calibration, images=usual, damping=damping
            )

    def rows(self, share: float) -> dict[str, dict[str, float]]:
        """Returns {how it was cut: accuracies and seconds} for one share of channels."""
        widths = [max(1, round(share * group.width)) for group in self._ready.network.groups]
        cost = self._ready.network.cost_model.cost(Structure(tuple(widths)))
        kept = {name: keep_best(order, widths) for name, order in self._orders.items()}
        found = {
            "slice and recalibration, channels by norm": self._row(kept["norm"], Merge.SLICE, str(USUAL)),
            "least squares, channels by norm": self._row(kept["norm"], Merge.LEAST_SQUARES, str(USUAL)),
        }
        for name, chosen in kept.items():
            found[f"sequential, channels by {name}"] = self._row(chosen, Merge.SEQUENTIAL, str(USUAL))
        usual = kept[f"elimination damped by {DAMPING:g}"]
        for name in [name for name in self._sets if name != str(USUAL)]:
            found[f"sequential, {name} images"] = self._row(usual, Merge.SEQUENTIAL, name)
        return {"macs": {"share": round(cost.macs / self._ready.network.cost_model.dense.macs, 4)}, **found}

    def dense(self) -> dict[str, float]:
        """Returns the accuracies of the dense network."""
        return self._accuracies(self._model)

    def _row(self, kept: Kept, merge: Merge, name: str) -> dict[str, float]:
        started = time.process_time()
        model = cut_and_merge(
            self._model,
            self._ready.network,
            kept,
            merge=merge,
            calibration=self._calibration(name),
            images=self._sets[name][0],
        )
        seconds = time.process_time() - started
        return {**self._accuracies(self._form.put_on(model, self._ready.network)), "seconds": round(seconds, 2)}

    def _accuracies(self, model: nn.Module) -> dict[str, float]:
        data = self._ready.problem.data
        first = np.arange(min(SCORED, len(data.test)))
        parts = {"holdout": (data.scoring, self._ready.split.holdout[:SCORED]), "test": (data.test, first)}
        return {
            name: round(100 * measure(model, images, chosen, batch_size=64).accuracy, 2)
            for name, (images, chosen) in parts.items()
        }

    def _calibration(self, name: str) -> Calibration:
        if name not in self._statistics:
            images, rows = self._sets[name]
            self._statistics[name] = calibrate(self._model, self._ready.network, images, seed=_SEED, rows=rows)
        return self._statistics[name]


def tabulate(specs: Sequence[str]) -> None:
    """Writes the accuracies of every network, after every share of channels what there is by then."""
    found: dict[str, dict[str, Any]] = {}
    for spec in specs:
        network = Network(prepared(spec))
        found[spec] = {"dense": network.dense()}
        for share in RETAINED:
            found[spec][f"retain {share:g}"] = network.rows(share)
            write("zero_training", found, packages=("torch", "torchvision", "numpy"))


if __name__ == "__main__":
    tabulate(sys.argv[1:] or NETWORKS)
