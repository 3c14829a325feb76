"""From kept channels to a network that works: slice, channel addition, least squares, sequential reconstruction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.candidate import Merge
from autoprune.errors import ModelError
from autoprune.models.cutting.surgery import Kept, cut, named_tensors
from autoprune.models.network import IndexArray, TracedNetwork
from autoprune.models.reduction.calibration import Calibration, solvable
from autoprune.models.reduction.reconstruction import reconstruct
from autoprune.tasks.detectors import raw_outputs

#: Ridge of the least-squares merge, relative to the mean variance of the kept channels.
_RIDGE = 1e-4


def cut_and_merge(
    model: nn.Module,
    network: TracedNetwork,
    kept: Kept,
    *,
    merge: Merge,
    calibration: Calibration | None = None,
    images: Tensor | None = None,
) -> nn.Module:
    """Returns the cut network in eval mode, ready to be scored: batch norms fit its own activations.

    Args:
        model: the dense network.
        network: its trace.
        kept: the channels to keep.
        merge: how consumers take over what the dropped channels carried; nothing changes where every channel is kept.
        calibration: statistics of the dense network; needed for all but `slice`.
        images: (B, C, H, W) those of the calibration; needed for `sequential` and for networks with batch norm.
    """
    if kept.structure == network.dense:
        return cut(model, network, kept).eval()
    if merge is Merge.LEAST_SQUARES:
        assert calibration is not None
        small = cut_least_squares(model, network, kept, calibration)
    else:
        small = cut(model, network, kept)
    if merge is Merge.SEQUENTIAL:
        assert calibration is not None
        assert images is not None
        try:
            return reconstruct(small, network, kept, calibration, images)
        except ModelError as error:
            warnings.warn(f"{error} It is sliced and recalibrated instead.", RuntimeWarning, stacklevel=2)
            small = cut(model, network, kept)
    return small.eval() if images is None else recalibrate(small, images)


@torch.no_grad()
def cut_least_squares(model: nn.Module, network: TracedNetwork, kept: Kept, calibration: Calibration) -> nn.Module:
    """Returns the network whose consumers read each dropped channel as a linear function of the kept ones.

    A channel is predicted as `x = M x_kept + c` with `M = Cov[:, kept] Cov[kept, kept]^-1`. The kernel takes M over;
    c goes into the bias where there is one, and else into the statistics of the batch norm at its recalibration.
    """
    masks, tensors = kept.masks(network), named_tensors(model)
    inputs: dict[str, Tensor] = {}
    shifts: dict[str, Tensor] = {}
    for call in network.calls:
        if call.input is None or call.call not in calibration.moments or not solvable(call):
            continue
        layout = network.channels[call.input]
        rows = layout.kept(masks)
        if len(rows) == len(layout.group):
            continue
        index = torch.from_numpy(rows).to(calibration.moments[call.call].device)
        weight, bias = tensors[call.weight], None if call.bias is None else tensors[call.bias]
        moments = calibration.moments[call.call]
        # Without bias and batch norm nothing can take the constant over: predict through the origin.
        centred = bias is not None or call.norm is not None
        matrix = calibration.covariance(call.call) if centred else moments[:-1, :-1]
        small = matrix[index][:, index].clone()
        small.diagonal().add_(_RIDGE * small.diagonal().mean().clamp_min(1e-12))
        prediction = torch.linalg.solve(small, matrix[index]).T
        inputs[call.weight] = prediction
        if call.bias is not None:
            mean = moments[:-1, -1]
            constant = mean - prediction @ mean[index]
            read = weight.detach().reshape(weight.shape[0], weight.shape[1], -1).sum(2)
            shifts[call.bias] = read.double() @ constant
    small_model = cut(model, network, kept, inputs=inputs)
    small_tensors = named_tensors(small_model)
    outputs = {call.bias: call.output for call in network.calls}
    for name, shift in shifts.items():
        rows = network.channels[outputs[name]].kept(masks)
        small_tensors[name].add_(shift[torch.from_numpy(rows).to(shift.device)].to(small_tensors[name]))
    return small_model


def addition_inputs(network: TracedNetwork, kept: Kept, clusters: Sequence[IndexArray]) -> dict[str, Tensor]:
    """Returns the `inputs` of `cut` for channel addition: consumers sum the weights of each cluster's members.

    Exact where the members of a cluster carry identical activations (C-SGD 2019, ASCP 2022).

    Args:
        network: the trace.
        kept: one representative a cluster.
        clusters: per group the (N,) representative channel of every channel.
    """
    masks = kept.masks(network)
    inputs: dict[str, Tensor] = {}
    for call in network.calls:
        if call.input is None or not solvable(call):
            continue
        layout = network.channels[call.input]
        rows = layout.kept(masks)
        if len(rows) == len(layout.group):
            continue
        # A flattened map repeats each channel: occurrence k of a member goes to occurrence k of its representative.
        seen: dict[tuple[int, int], int] = {}
        places: dict[tuple[int, int, int], int] = {}
        keys = []
        for group, channel in zip(layout.group.tolist(), layout.channel.tolist(), strict=True):
            occurrence = seen.get((group, channel), 0)
            seen[group, channel] = occurrence + 1
            keys.append((group, channel, occurrence))
        for column, position in enumerate(rows.tolist()):
            places[keys[position] if keys[position][0] >= 0 else (-1, position, 0)] = column
        matrix = np.zeros((len(keys), len(rows)))
        for position, (group, channel, occurrence) in enumerate(keys):
            key = (-1, position, 0) if group < 0 else (group, int(clusters[group][channel]), occurrence)
            matrix[position, places[key]] = 1.0
        inputs[call.weight] = torch.from_numpy(matrix)
    return inputs


@torch.no_grad()
def recalibrate(model: nn.Module, images: Tensor, *, batch: int = 256) -> nn.Module:
    """Replaces the running statistics of every batch norm by those of the images; returns the model in eval mode.

    The mean over batches of the batch statistics, as in EagleEye (2020); without it the accuracy of a cut network
    ranks candidates the wrong way round.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        # Blocks of equal size: a last one of a single image has no variance where maps have shrunk to one position.
        for block in images.chunk(math.ceil(len(images) / batch)):
            raw_outputs(model, block)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()
