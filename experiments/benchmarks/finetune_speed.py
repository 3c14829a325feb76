"""How many images a second a finetune reads, against the same finetune written plainly, in the same run.

Run from the repository's root, with AUTOPRUNE_DATA_ROOT and AUTOPRUNE_WEIGHTS_ROOT set:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.finetune_speed [NETWORK ...]

Both sides take turns at finetuning one and the same cut network, uniform widths at half the FLOPs, for a few steps with
distillation. Plainly written are torchvision's CIFAR-10 with its transforms, a DataLoader and a loop. Times are CPU
seconds of one thread on a CPU, where convolutions take nearly all of it, and wall seconds with `--device cuda`, where
the loader may have several processes (`--loader-workers`).
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from autoprune.config.options import DATA_ROOT_VARIABLE
from autoprune.core.candidate import Merge
from autoprune.devices import gpu_module, is_gpu
from autoprune.models.reduction.merging import cut_and_merge
from autoprune.models.reduction.selection import keep_best
from autoprune.searching.search.preparation import Prepared
from autoprune.training.recipe import Recipe, finetune_recipe
from autoprune.training.trainer import train
from experiments.benchmarks.cifar import prepared
from experiments.benchmarks.common import write

NETWORKS = ("cifar/resnet20-b",)
STEPS, TURNS = 12, 5


def compare(spec: str, device: str, loader_workers: int) -> dict[str, Any]:
    """Returns images a second of both sides for one network."""
    ready = prepared(spec)
    recipe = finetune_recipe(1.0, images=len(ready.split.training))
    count = STEPS * recipe.batch_size
    indices = ready.split.training[:count]
    start = _cut(ready)
    seconds: dict[str, list[float]] = {"autoprune": [], "plainly written": []}
    for turn in range(TURNS + 1):
        for name, finetune in (("autoprune", _ours), ("plainly written", _plain)):
            model = copy.deepcopy(start)
            began = _clock(device)
            finetune(ready, model, indices, recipe, device, loader_workers)
            if turn > 0:  # the first turn warms up
                seconds[name].append(_clock(device) - began)
    ratios = [plain / own for own, plain in zip(*seconds.values(), strict=True)]
    return {
        "device": device,
        "loader_workers": loader_workers,
        "images_a_turn": count,
        "turns": TURNS,
        "images_a_second": {name: round(count / median(found), 1) for name, found in seconds.items()},
        "ratio": {"median": round(median(ratios), 2), "lowest": round(min(ratios), 2)},
    }


def _cut(ready: Prepared) -> nn.Module:
    kept = keep_best(ready.rankings, ready.space.uniform().widths)
    images = ready.problem.data.train.take(ready.split.calibration[:64])
    model = ready.problem.model
    return cut_and_merge(model, ready.network, kept, merge=Merge.SLICE, calibration=ready.calibration, images=images)


def _ours(
    ready: Prepared, model: nn.Module, indices: np.ndarray[Any, Any], recipe: Recipe, device: str, _: int
) -> None:
    data = ready.problem.data
    teacher = ready.problem.model
    train(model, data.train, indices, recipe, seed=0, teacher=teacher, augmentation=data.augmentation, device=device)


def _plain(
    ready: Prepared, model: nn.Module, indices: np.ndarray[Any, Any], recipe: Recipe, device: str, workers: int
) -> None:
    preprocessing = ready.problem.data.preprocessing
    assert preprocessing is not None
    varied = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    images = datasets.CIFAR10(os.environ[DATA_ROOT_VARIABLE], train=True, transform=varied)
    loader = DataLoader(Subset(images, indices.tolist()), recipe.batch_size, shuffle=True, num_workers=workers)
    teacher = ready.problem.model.to(device)
    model.to(device).train()
    optimiser = torch.optim.SGD(
        model.parameters(), recipe.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(loader))
    heat, share = recipe.temperature, recipe.distillation
    for inputs, labels in loader:
        inputs, labels = inputs.to(device), labels.to(device)
        with torch.no_grad():
            wanted = functional.log_softmax(teacher(inputs) / heat, 1)
        logits = model(inputs)
        found = functional.log_softmax(logits / heat, 1)
        divergence = heat**2 * functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
        loss = (1 - share) * functional.cross_entropy(logits, labels) + share * divergence
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _clock(device: str) -> float:
    if not is_gpu(device):
        return time.process_time()
    gpu_module(device).synchronize()
    return time.perf_counter()


def main() -> None:
    """Compares and writes results/finetune_speed.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--loader-workers", type=int, default=0)
    asked = parser.parse_args()
    figures = {spec: compare(spec, asked.device, asked.loader_workers) for spec in asked.networks}
    write("finetune_speed", figures, packages=("torch", "torchvision", "numpy"))


if __name__ == "__main__":
    main()
