"""Weight sparsity ratios, and the share of each group that is pruned by them (PSAP 2023; the formulas are ours).

Notation:
    WSR_l   (G,) weight sparsity ratio in (0, 1]: the share of small weights among those that produce group l
    tau     what counts as small: a quantile over all prunable weights
    p_l     (G,) share of the group that is pruned: clip(lambda WSR_l, 0, 0.9)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.cost import FloatArray
from autoprune.core.space import SearchSpace
from autoprune.methods.softly import GroupAxes
from autoprune.models.surgery import named_tensors
from autoprune.strategies.heuristics import bisected

SPARSITIES = ("global", "absolute", "filter")
#: The quantile that counts as small is at least this: with nothing removed yet every layer's sparsity would be 0.
_SMALLEST_QUANTILE = 0.05
_SMALLEST_RATIO = 1e-3
_LARGEST_CUT = 0.9


@torch.no_grad()
def sparsity_ratios(
    model: nn.Module, groups: Sequence[GroupAxes], *, kind: str, quantile: float, alpha: float = 0.5
) -> FloatArray:
    """Returns (G,) weight sparsity ratios WSR_l in (0, 1], of the weights that produce each group.

    Args:
        model: the network.
        groups: where its groups lie.
        kind: one of `SPARSITIES`.
        quantile: q of tau, the q-quantile over all prunable weights below which a weight is small; not for `filter`.
        alpha: of `filter`.
    """
    weights = [producing_weights(model, group) for group in groups]
    if kind == "filter":
        found = [[_small_filters(rows, alpha) for rows in member] for member in weights]
        ratios = [sum(small for small, _ in member) / max(1, sum(count for _, count in member)) for member in found]
        return np.maximum(np.array(ratios, dtype=np.float64), _SMALLEST_RATIO)
    scaled = []
    for member in weights:
        # Gaussian layers of any scale then all have the ratio q: what differs is how peaked a layer is.
        scales = [float(rows.pow(2).mean().sqrt()) or 1.0 if kind == "global" else 1.0 for rows in member]
        scaled.append(torch.cat([(rows / scale).reshape(-1) for rows, scale in zip(member, scales, strict=True)]))
    everything = torch.cat(scaled)
    rank = min(len(everything), max(1, round(max(quantile, _SMALLEST_QUANTILE) * len(everything))))
    tau = everything.kthvalue(rank).values
    shares = [float((values <= tau).double().mean()) if len(values) else 0.0 for values in scaled]
    return np.maximum(np.array(shares), _SMALLEST_RATIO)


def producing_weights(model: nn.Module, group: GroupAxes) -> list[Tensor]:
    """Returns per producer the (p, d) absolute weights of a group's filters."""
    tensors = named_tensors(model)
    names = {call.weight for call in group.calls}
    found = [axis.rows(tensors[axis.name]).flatten(1).abs() for axis in group.makers if axis.name in names]
    return found or [torch.zeros(group.width, 1)]


def _small_filters(rows: Tensor, alpha: float) -> tuple[int, int]:
    means = rows.mean(1)
    return int((means < alpha * means.mean()).sum()), len(means)


def pruned_shares(space: SearchSpace, ratios: FloatArray) -> FloatArray:
    """Returns (G,) p_l = clip(lambda WSR_l, 0, 0.9) with lambda bisected to the space's budget, before rounding."""
    dense = np.asarray(space.dense.widths, dtype=np.float64)
    steepest = _LARGEST_CUT / ratios.min()
    asked: list[FloatArray] = []

    def widths_of(knob: float) -> FloatArray:
        # The knob 0 means the largest lambda, at which every group loses 90 %.
        asked.append(np.clip((1 - knob) * steepest * ratios, 0.0, _LARGEST_CUT))
        widths: FloatArray = dense * (1 - asked[-1])
        return widths

    bisected(space, widths_of)
    # The last knob that is asked for is the one within budget.
    return asked[-1]
