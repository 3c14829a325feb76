"""Which channels to keep, and what is lost with the others.

For each consumer, dropping channels and predicting them linearly from the kept ones leaves an error in its output.
Every width keeps a prefix of one order of the channels.

Notation:
    C   (n, n)  covariance of the consumer's input channels of one group; a constant is no loss, biases make up for it
    S   (n, n)  sum over output channels and kernel positions of w w^T, batch-norm scale folded in
    R   (n, n)  residual covariance once the kept channels predict the rest: C - C_K C_KK^-1 C_K^T
    error       trace(S R) / trace(S C), in [0, 1]

Along an order, R follows from the Cholesky factor of C; weighting by the consumer's kernel is [OURS].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.cost import FloatArray
from autoprune.models.cutting.folding import folded_weight
from autoprune.models.cutting.surgery import Kept, named_tensor
from autoprune.models.network import IndexArray, LayerCall, TracedNetwork
from autoprune.models.reduction.calibration import Calibration
from autoprune.models.reduction.elimination import DAMPING, elimination_order, readers_of

#: Variance that is added to every channel's, relative to the largest: predicting those below it is not worth while.
_VANISHED = 1e-9


@dataclass(frozen=True, eq=False)
class Ranking:
    """The order of one group's channels.

    Attributes:
        order: (N,) channels, the most valuable first.
        error: (N + 1,) mean over consumers of the error when the first k channels are kept; 1 at 0, 0 at N.
    """

    order: IndexArray
    error: FloatArray


def errors_along(order: IndexArray, covariances: Sequence[Tensor], weights: Sequence[Tensor]) -> FloatArray:
    """Returns (n + 1,) the mean over consumers of the error when the first k channels of an order are kept.

    Args:
        order: (n,) channels.
        covariances: C of every consumer, (n, n) float64.
        weights: S of every consumer, (n, n) float64.
    """
    along = torch.from_numpy(np.ascontiguousarray(order)).to(covariances[0].device)
    C, S = (torch.stack([item[along][:, along] for item in items]).double() for items in (covariances, weights))
    whole = (C * S).sum((1, 2)).clamp_min(1e-300)
    # The k-th column of the Cholesky factor is what the k-th channel adds to what can be predicted.
    L = _factor(C)
    explained = (L * (S @ L)).sum(1).cumsum(1) / whole[:, None]
    curve = np.concatenate([[1.0], (1 - explained).clamp(0.0, 1.0).mean(0).cpu().numpy()])
    curve[-1] = 0.0
    return np.minimum.accumulate(curve)


def _factor(C: Tensor) -> Tensor:
    """Returns the (consumers, n, n) Cholesky factors of covariances, each with as small a jitter as makes it definite.

    Sums of squares in single precision leave eigenvalues a little below zero.
    """
    scale = C.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-280)
    jitter = _VANISHED * scale
    while True:
        L: Tensor
        L, failed = torch.linalg.cholesky_ex(C + torch.diag_embed(jitter[:, None].expand(C.shape[:2])))
        if not bool(failed.any()):
            return L
        jitter = torch.where(failed > 0, 10 * jitter, jitter)


def rank_groups(
    model: nn.Module,
    network: TracedNetwork,
    calibration: Calibration,
    *,
    images: Tensor | None = None,
    damping: float = DAMPING,
) -> tuple[Ranking, ...]:
    """Returns the ranking of every group for sequential reconstruction: the order of elimination, or of norms.

    Groups with a very wide consumer are ranked by norm, those whose consumers have no statistics by filter norm.

    Args:
        model: the dense network, in eval mode.
        network: its trace.
        calibration: its statistics.
        images: (B, C, H, W) those of the calibration; without them groups are ranked by the norm of the weights that
            read them.
        damping: of the elimination.
    """
    consumers: list[list[tuple[Tensor, Tensor]]] = [[] for _ in network.groups]
    for call in network.calls:
        if call.input is None or call.call not in calibration.moments:
            continue
        for group in network.channels[call.input].members:
            consumers[group].extend(_consumer(model, network, call, group, calibration.covariance(call.call)))
    readers = None if images is None else readers_of(model, network, calibration, images, damping=damping)
    rankings = []
    for index, found in enumerate(consumers):
        if found:
            covariances, weights = zip(*found, strict=True)
            order = None if readers is None else elimination_order(readers[index])
            if order is None:
                order = np.argsort(-consumer_norms(model, network, index), kind="stable")
            rankings.append(Ranking(order, errors_along(order, covariances, weights)))
        else:
            rankings.append(_by_norm(model, network, index))
    return tuple(rankings)


def _consumer(
    model: nn.Module, network: TracedNetwork, call: LayerCall, group: int, covariance: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Returns the (C, S) blocks of one group in one consumer: one a position it occurs at (flattened maps: several)."""
    layout = network.channels[call.input if call.input is not None else 0]
    weight = folded_weight(model, call)
    blocks = []
    for column in layout.places(group, network.groups[group].width).T[:16]:
        index = torch.from_numpy(column.copy()).to(covariance.device)
        read = weight.index_select(1, index).double()
        blocks.append((covariance[index][:, index], torch.einsum("oik,ojk->ij", read, read)))
    return blocks


def _by_norm(model: nn.Module, network: TracedNetwork, group: int) -> Ranking:
    norms = filter_norms(model, network, group)
    order = np.argsort(-norms, kind="stable")
    remaining = 1.0 - np.concatenate([[0.0], np.cumsum(norms[order] ** 2)]) / max(float((norms**2).sum()), 1e-300)
    remaining[-1] = 0.0
    return Ranking(order.astype(np.int64), np.minimum.accumulate(np.clip(remaining, 0.0, 1.0)))


def filter_norms(model: nn.Module, network: TracedNetwork, group: int) -> FloatArray:
    """Returns (N,) the L2 norm of the weights that produce each channel of a group, over all producers."""
    return _norms(model, network, group, "produces")


def consumer_norms(model: nn.Module, network: TracedNetwork, group: int) -> FloatArray:
    """Returns (N,) the L2 norm of the weights that read each channel of a group, over all consumers."""
    return _norms(model, network, group, "consumes")


def _norms(model: nn.Module, network: TracedNetwork, group: int, role: str) -> FloatArray:
    total = np.zeros(network.groups[group].width)
    for axis in network.axes:
        layout = network.channels[axis.channels]
        if axis.role == role and group in layout.members:
            tensor = named_tensor(model, axis.names[0]).detach().movedim(axis.axis, 0).flatten(1)
            energy = tensor.double().pow(2).sum(1).cpu().numpy()
            mine = layout.group == group
            np.add.at(total, layout.channel[mine], energy[mine])
    return np.sqrt(total)


def keep_best(rankings: Sequence[Ranking], widths: Sequence[int]) -> Kept:
    """Returns the kept channels of a structure: the first of each ranking."""
    return Kept(tuple(np.sort(ranking.order[:width]) for ranking, width in zip(rankings, widths, strict=True)))
