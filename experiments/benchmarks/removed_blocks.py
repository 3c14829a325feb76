"""Removes residual blocks of CIFAR-10's ResNet-20-B without training, with and without the constant they leave.

python -m experiments.benchmarks.removed_blocks --images 2000
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoprune.core.candidate import Merge
from autoprune.data.preprocessing import CIFAR10
from autoprune.data.sources import load_data
from autoprune.models.cutting.surgery import Kept, cut
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.merging import cut_and_merge
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.depth import allowed_to_vanish, with_vanishing
from autoprune.models.zoo.catalogue import build_model
from autoprune.training.measure import measure


def accuracies(blocks: Sequence[str], *, images: int, data_root: Path, weights: Path) -> dict[str, float]:
    """Returns {what was done: accuracy} on the last training images; the first 512 are calibrated on.

    `without` drops the constant of each removed block, `masked` keeps the one that the block puts out when its inner
    channels are zero, `mean` puts the mean of what the dense block adds in its place, which its norm knows, and
    `reconstructed` also solves the layers behind anew. `kept flops` is a share.
    """
    data = load_data("cifar10", root=data_root, preprocessing=CIFAR10)
    model = build_model("cifar/resnet20-b", weights=weights)
    network = trace(model, torch.zeros(1, 3, 32, 32))
    groups = [f"{block}.conv1" for block in blocks]
    network, _ = with_vanishing(model, allowed_to_vanish(network, groups))
    kept = Kept(tuple(np.arange(0 if group.name in groups else group.width) for group in network.groups))
    calibration_images = data.train.take(np.arange(512))
    calibration = calibrate(model, network, calibration_images, seed=0)
    nets: dict[str, nn.Module] = {"dense": model}
    for name in ("without", "masked", "mean"):
        nets[name] = cut(model, network, kept).eval()
        for block in blocks:
            norm = nets[name].get_submodule(f"{block}.bn2")
            if name != "masked":  # nothing goes in: a mean of zero puts out the shift
                norm.running_mean.zero_()
            if name == "without":
                nn.init.zeros_(norm.bias)
    nets["reconstructed"] = cut_and_merge(
        model, network, kept, merge=Merge.SEQUENTIAL, calibration=calibration, images=calibration_images
    )
    held_out = np.arange(len(data.train) - images, len(data.train))
    found = {name: measure(net, data.train, held_out).accuracy for name, net in nets.items()}
    cost = network.cost_model
    return {**found, "kept flops": cost.cost(kept.structure).macs / cost.dense.macs}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2000)
    count = parser.parse_args().images
    roots = {"data_root": Path(os.environ["AUTOPRUNE_DATA_ROOT"])}
    roots["weights"] = Path(os.environ["AUTOPRUNE_WEIGHTS_ROOT"]) / "resnet20_b_cifar10.pt"
    for removed in (["layer2.2"], ["layer2.2", "layer3.2"]):
        shown = accuracies(removed, images=count, **roots)
        print(", ".join(removed), {name: f"{100 * value:.2f}" for name, value in shown.items()})
