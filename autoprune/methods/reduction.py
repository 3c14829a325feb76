"""Turns what a method decided into a network: how consumers take over what the dropped channels carried."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor, nn

from autoprune.core.candidate import Merge
from autoprune.core.seeds import derive_seed, generator
from autoprune.errors import ConfigError
from autoprune.methods.base import Pruned, Subject
from autoprune.models.cutting.surgery import Kept, cut, keep_all
from autoprune.models.network import IndexArray, Role, TracedNetwork
from autoprune.models.reduction.calibration import Calibration, calibrate
from autoprune.models.reduction.merging import addition_inputs, cut_and_merge, recalibrate
from autoprune.models.verification.equivalence import largest_deviation, outputs, widest
from autoprune.models.verification.precision import MOST_IN_SINGLE, SINGLE


class Reduction(StrEnum):
    """How the cut network comes about; the first four leave batch norms that fit its own activations.

    `slice` drops; `addition` sums each cluster's weights (C-SGD 2019, ASCP 2022); `least-squares` and `sequential` are
    closed-form solves (ours); `fresh` slices and starts the batch norms of cut channels anew, as the published code of
    EPruner and CCM-LRR does, so that it is of no use before it is trained.
    """

    SLICE = "slice"
    ADDITION = "addition"
    LEAST_SQUARES = "least-squares"
    SEQUENTIAL = "sequential"
    FRESH = "fresh"


def default_reduction(pruned: Pruned, *, as_published: bool) -> Reduction:
    """Returns the method's own reduction as published, channel addition where that is exact, else the best we have."""
    if pruned.exact:
        return Reduction.ADDITION
    if as_published:
        return Reduction.FRESH if pruned.fresh_norms else Reduction.SLICE
    return Reduction.SEQUENTIAL


def own_reduction(pruned: Pruned) -> Reduction:
    """Returns what the method does without our solves: addition where that is exact, else slicing."""
    return Reduction.ADDITION if pruned.exact else Reduction.SLICE


def reduced(
    subject: Subject,
    pruned: Pruned,
    reduction: Reduction,
    *,
    images: Tensor | None = None,
    calibration: Calibration | None = None,
) -> nn.Module:
    """Returns the cut network, in eval mode on the device of the images.

    Args:
        subject: what the method read.
        pruned: what it decided.
        reduction: how to cut.
        images: (B, C, H, W) to fit on instead of the subject's calibration images.
        calibration: statistics of the dense network on them; needed with `images`.

    Raises:
        ConfigError: channel addition without clusters.
    """
    if images is None or calibration is None:
        images, calibration = subject.images, subject.calibration
    network, model, kept = subject.network, pruned.model.to(images.device), pruned.kept
    if reduction is Reduction.FRESH:
        return _with_fresh_norms(cut(model, network, kept).eval(), network)
    if reduction is Reduction.ADDITION:
        if pruned.clusters is None:
            raise ConfigError("Channel addition sums clusters, and this method forms none. Choose another --merge.")
        small = cut(model, network, kept, inputs=addition_inputs(network, kept, pruned.clusters)).eval()
        return small if pruned.exact else recalibrate(small, images)
    if reduction is not Reduction.SLICE and model is not subject.model:
        # The statistics are of the dense network, and the method has trained another one.
        calibration = calibrate(model, network, images, seed=derive_seed(subject.seed, "trained calibration"))
    return cut_and_merge(model, network, kept, merge=Merge(reduction.value), calibration=calibration, images=images)


def adds_exactly(
    model: nn.Module, network: TracedNetwork, kept: Kept, clusters: Sequence[IndexArray], *, seed: int
) -> bool:
    """Returns whether channel addition leaves the outputs of a network with equal channels in clusters as they are.

    Not where something other than a layer sums over channels: queries times keys of an attention without heads, or a
    norm over channels. Members that are left out are missing from such a sum, and no weight reads it.

    Args:
        model: whose clusters are of equal channels, in eval mode.
        network: its trace.
        kept: one representative a cluster.
        clusters: per group the (N,) representative channel of every channel.
        seed: of two random images.
    """
    dense = cut(model, network, keep_all(network)).eval().cpu()
    small = cut(dense, network, kept, inputs=addition_inputs(network, kept, clusters)).eval()
    example = torch.from_numpy(generator(seed, "addition").standard_normal((2, *network.input_shape)))
    precision = widest(dense, network, seed=seed)
    dense, small, example = precision.of(dense), precision.of(small), example.to(precision.dtype)
    with precision.kept(), torch.no_grad():
        deviation = largest_deviation(outputs(dense, example), outputs(small, example))
    return deviation <= (MOST_IN_SINGLE if precision is SINGLE else precision.tolerance)


def _with_fresh_norms(small: nn.Module, network: TracedNetwork) -> nn.Module:
    """Resets every batch norm that normalises channels of a group: scale 1, shift 0, mean 0, variance 1."""
    named = {name for axis in network.axes if axis.role is Role.FOLLOWS for name in axis.names}
    with torch.no_grad():
        for prefix, module in small.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{prefix}.weight" in named:
                module.reset_parameters()
    return small
