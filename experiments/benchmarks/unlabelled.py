"""What a network is worth that was cut with a few hundred images which nobody has labelled, and no training.

Run from the repository's root, with AUTOPRUNE_DATA_ROOT and AUTOPRUNE_WEIGHTS_ROOT set:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.unlabelled [NETWORK ...]

So many training images of CIFAR-10, drawn at random for each seed, are written as PNG files into one folder, and
`autoprune prune --no-training --data images:FOLDER` cuts the network to half of its FLOPs. Accuracy is that on the
whole test set with its labels, which nothing before has seen; agreement is what `prune` itself reports, on a fifth of
its images. Seconds are those of the processor for everything that `prune` does.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image

from autoprune.config.layout import INCUMBENT
from autoprune.config.options import DATA_ROOT_VARIABLE, check_options
from autoprune.core.seeds import generator
from autoprune.data.bundle import DataBundle
from autoprune.data.images import ArrayImages
from autoprune.data.sources import load_data
from autoprune.models.storage.saved import load
from autoprune.models.zoo.catalogue import model_info
from autoprune.report.observer import NullObserver
from autoprune.searching.delivery.pruning import MethodOptions, prune
from autoprune.searching.inputs.options import SearchOptions
from autoprune.training.measure import measure
from experiments.benchmarks.cifar import WEIGHTS
from experiments.benchmarks.common import write

NETWORKS = ("cifar/resnet20-a", "cifar/resnet20-b")
COUNTS = (100, 300, 1_000)
SEEDS = (0, 1, 2)


def one(spec: str, data: DataBundle, *, count: int, seed: int) -> dict[str, float]:
    """Returns what came of one draw of images, in percent."""
    assert isinstance(data.train, ArrayImages)
    drawn = generator(seed, "unlabelled", count).choice(len(data.train), count, replace=False)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "images", Path(name) / "out"
        folder.mkdir()
        for index in drawn.tolist():
            Image.fromarray(data.train.pixels[index].transpose(1, 2, 0)).save(folder / f"{index:05d}.png")
        given = {"model": spec, "weights": WEIGHTS[spec], "data": f"images:{folder}", "out": str(out), "seed": seed}
        options = SearchOptions(**check_options(given, strategies=["auto"]))
        started = time.process_time()
        summary = prune(options, MethodOptions("reconstruction", no_training=True), NullObserver())
        seconds = time.process_time() - started
        model = load(out / INCUMBENT)
    return {
        "accuracy": round(100 * measure(model, data.test).accuracy, 2),
        "agreement": round(100 * summary["incumbent"]["accuracy"], 2),
        "flops": round(100 * summary["incumbent"]["flops"] / summary["dense"]["flops"], 1),
        "seconds": round(seconds, 1),
    }


def tabulate(specs: Sequence[str]) -> None:
    """Writes the figures, after every network what there is by then."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for spec in specs:
        root = Path(os.environ[DATA_ROOT_VARIABLE])
        data = load_data("cifar10", root=root, preprocessing=model_info(spec).preprocessing)
        found[spec] = {}
        for count in COUNTS:
            runs = [one(spec, data, count=count, seed=seed) for seed in SEEDS]
            accuracies = [run["accuracy"] for run in runs]
            found[spec][f"{count} images"] = {
                "accuracy": round(mean(accuracies), 2),
                "range": [min(accuracies), max(accuracies)],
                "runs": runs,
            }
            write("unlabelled", found, packages=("torch", "torchvision", "numpy"))


if __name__ == "__main__":
    tabulate(sys.argv[1:] or NETWORKS)
