"""How long channel independence takes, against the published loop of singular value decompositions in the same run.

Run from the repository's root, held to one core:

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m experiments.benchmarks.independence_speed

Maps are rectified noise of the shapes that CIFAR-10 ResNet-56 and VGG-16 have; neither way is faster or slower on real
ones. The loop is that of CHIP and CCM-LRR: one nuclear norm an image and channel, of the map with that row zeroed, in
float32, maps rounded to four decimals. "eigenvalues" are those of all zeroed Gram matrices at once, in float64. All
three are compared before anything is timed; deviations are shares of a map's mean independence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autoprune.methods.activations import visit_maps
from autoprune.methods.ccm import channel_independence
from autoprune.models.tracing.tracer import trace
from autoprune.models.zoo.catalogue import build_model
from experiments.benchmarks.common import milliseconds, write

#: (channels, positions) and how many such maps the networks have.
SHAPES = {
    "ResNet-56": {(16, 1024): 19, (32, 256): 18, (64, 64): 18},
    "VGG-16": {(64, 1024): 2, (128, 256): 2, (256, 64): 3, (512, 16): 3, (512, 4): 3},
}
NETWORKS = ("cifar/resnet56-a", "cifar/vgg16-512head")
IMAGES = 4
REPEATS = 3


def published(maps: Tensor) -> Tensor:
    """Returns (B, N) independence by one decomposition an image and channel."""
    maps = maps.round(decimals=4)
    found = torch.zeros(maps.shape[:2])
    for image, rows in enumerate(maps):
        whole = torch.linalg.matrix_norm(rows, "nuc")
        for channel in range(len(rows)):
            zeroed = rows.clone()
            zeroed[channel] = 0
            found[image, channel] = whole - torch.linalg.matrix_norm(zeroed, "nuc")
    return found


def eigenvalues(maps: Tensor) -> Tensor:
    """Returns (B, N) float64 independence by the eigenvalues of the Gram matrices of all zeroed maps."""
    found = []
    for a in maps.double():
        if a.shape[0] <= a.shape[1]:
            whole = a @ a.T
            rest = whole.repeat(len(a), 1, 1)
            index = torch.arange(len(a))
            rest[index, index, :] = 0
            rest[index, :, index] = 0
        else:
            whole = a.T @ a
            rest = whole - a[:, :, None] * a[:, None, :]
        norms = [torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum(-1) for gram in (whole, rest)]
        found.append(norms[0] - norms[1])
    return torch.stack(found)


def compare(shape: tuple[int, int]) -> dict[str, Any]:
    """Returns milliseconds an image and deviations for maps of one shape."""
    maps = torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(0)).relu()
    found = {"autoprune": channel_independence(maps), "eigenvalues": eigenvalues(maps)}
    loop = published(maps).double()
    scale = float(loop.mean())
    times = milliseconds(
        {
            "autoprune": lambda: channel_independence(maps),
            "eigenvalues": lambda: eigenvalues(maps),
            "published loop": lambda: published(maps),
        },
        repeats=REPEATS,
    )
    return {
        "milliseconds_an_image": {
            way: {kind: round(value / IMAGES, 3) for kind, value in found.items()} for way, found in times.items()
        },
        "largest_deviation_from_the_loop": {
            way: float(f"{float((values - loop).abs().max()) / scale:.1e}") for way, values in found.items()
        },
        "largest_deviation_of_autoprune_from_eigenvalues": float(
            f"{float((found['autoprune'] - found['eigenvalues']).abs().max()) / scale:.1e}"
        ),
    }


def whole_network(spec: str) -> dict[str, Any]:
    """Returns the seconds for the 640 images of the papers, forward passes included, extrapolated from 64."""
    model = build_model(spec)
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = trace(model, images[:1])

    def score() -> None:
        visit_maps(model, network, images, lambda _group, _place, maps: channel_independence(maps), every_place=True)

    times = milliseconds({"64 images": score}, repeats=REPEATS)["64 images"]
    return {kind: round(value / 100, 1) for kind, value in times.items()}


def summed(shapes: dict[tuple[int, int], Any], counts: dict[tuple[int, int], int]) -> dict[str, float]:
    """Returns how many times longer the other ways take for all maps of a network, by best times."""
    total = {
        way: sum(count * shapes[shape]["milliseconds_an_image"][way]["best"] for shape, count in counts.items())
        for way in ("autoprune", "eigenvalues", "published loop")
    }
    return {way: round(value / total["autoprune"], 1) for way, value in total.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    measured = {shape: compare(shape) for counts in SHAPES.values() for shape in counts}
    write(
        "independence_speed",
        {
            "shapes": {f"{shape[0]}x{shape[1]}": figures for shape, figures in measured.items()},
            "times_longer_for_a_network": {name: summed(measured, counts) for name, counts in SHAPES.items()},
            "seconds_for_640_images": {spec: whole_network(spec) for spec in NETWORKS},
        },
        packages=("torch", "numpy"),
    )
