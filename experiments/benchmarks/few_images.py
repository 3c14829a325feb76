"""What one epoch of few images does to a reconstructed network: by the size of batches and by the rate.

Run from the repository's root, with AUTOPRUNE_DATA_ROOT and AUTOPRUNE_WEIGHTS_ROOT set:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.few_images

Uniform widths at half the FLOPs, reconstructed on the images that are trained on. Accuracies are of the first 2,000
hold-out images, which the dense networks of CIFAR-10 have seen, and of the first 2,000 test images (digits: 359 each,
both unseen). One seed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from autoprune.models.cutting.surgery import Kept
from autoprune.models.reduction.selection import keep_best
from autoprune.report.observer import NullObserver
from autoprune.searching.search.finish import Finisher
from autoprune.searching.search.preparation import Prepared
from autoprune.training.features import FeatureDistillation
from autoprune.training.measure import measure
from autoprune.training.recipe import Recipe, finetune_recipe
from autoprune.training.trainer import train
from experiments.benchmarks.cifar import prepared
from experiments.benchmarks.common import write

#: {network: images that it is finetuned on}.
NETWORKS = {"digits/resnet": (300, 1_079), "cifar/resnet20-b": (300, 1_000, 4_000), "cifar/resnet56-b": (1_000, 4_000)}
SCORED = 2_000
_SEED = 0
_EPOCH = finetune_recipe(1.0, images=50_000, features=True)


def recipes(images: int) -> dict[str, Recipe]:
    """Returns the recipes that are compared, for one epoch of that many images."""
    ours = finetune_recipe(1.0, images=images, features=True)
    return {
        "batches and rate of an epoch of CIFAR-10": _EPOCH,
        "its batches, the rate for so few steps": replace(_EPOCH, learning_rate=ours.learning_rate),
        "smaller batches, the rate for as many steps": replace(
            ours, learning_rate=_EPOCH.learning_rate * math.sqrt(ours.steps(images) / _EPOCH.steps(50_000))
        ),
        "as autoprune finetunes": ours,
    }


def rows(ready: Prepared, counts: Iterable[int]) -> dict[str, Any]:
    """Returns the accuracies of a network, by the images it is finetuned on."""
    kept = keep_best(ready.rankings, ready.space.uniform().widths)
    found: dict[str, Any] = {"dense": _accuracies(ready, ready.problem.model)}
    for count in counts:
        few = replace(ready, split=replace(ready.split, training=ready.split.training[:count], apart=True))
        cut = Finisher(few, NullObserver(), epochs=1.0).reconstructed("uniform", kept)
        found[f"{count} images"] = {
            "reconstructed": _accuracies(ready, cut),
            **{name: _finetuned(few, cut, kept, recipe) for name, recipe in recipes(count).items()},
        }
    return found


def _finetuned(few: Prepared, cut: nn.Module, kept: Kept, recipe: Recipe) -> dict[str, Any]:
    model, data = copy.deepcopy(cut), few.problem.data
    report = train(
        model,
        data.train,
        few.split.training,
        recipe,
        seed=_SEED,
        teacher=few.problem.model,
        augmentation=data.augmentation,
        hooks=[FeatureDistillation.of(few.network, kept)],
    )
    told = {"batch": recipe.batch_size, "rate": round(recipe.learning_rate, 4), "steps": report.steps}
    return {**told, **_accuracies(few, model)}


def _accuracies(ready: Prepared, model: nn.Module) -> Mapping[str, float]:
    data, first = ready.problem.data, np.arange(SCORED)
    parts = {"holdout": (data.scoring, ready.split.holdout[:SCORED]), "test": (data.test, first[: len(data.test)])}
    return {name: round(100 * measure(model, images, chosen).accuracy, 2) for name, (images, chosen) in parts.items()}


if __name__ == "__main__":
    figures: dict[str, Any] = {}
    for spec, counts in NETWORKS.items():
        figures[spec] = rows(prepared(spec), counts)
        write("few_images", figures, packages=("torch", "torchvision", "numpy"))
