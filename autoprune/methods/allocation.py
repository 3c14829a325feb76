"""From a score per channel to kept channels: how many each group keeps, then the best of each.

Notation:
    N   channels of a group
    k   knob in [0, 1]: the share of all channels, the best of all groups first, that stays
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.cost import FloatArray
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.errors import ModelError
from autoprune.models.cutting.surgery import Kept
from autoprune.strategies.heuristics import bisected

#: `uniform` cuts one share off every group, `global` whatever scores lowest in the whole network.
ALLOCATIONS = ("uniform", "global")
#: What a group's scores are divided by before groups are compared.
NORMALISATIONS = ("mean", "norm", "none")


def allocated(
    space: SearchSpace, scores: Sequence[FloatArray], *, allocation: str, normalised_by: str = "none"
) -> Structure:
    """Returns widths within the budget, topped up to use it up.

    Args:
        space: legal structures.
        scores: per group, (N,) finite and at least 0, higher is better.
        allocation: one of `ALLOCATIONS`; `global` is one threshold on the normalised scores, bisected to the budget.
        normalised_by: one of `NORMALISATIONS`, for `global`: each group's mean (Torch-Pruning), its L2 norm
            (Molchanov et al. 2017, section 2.2) or nothing.
    """
    if allocation == "uniform":
        return space.uniform()
    normalised = np.concatenate([row / _scale(row, normalised_by) for row in scores])
    place = np.empty(len(normalised))
    # A place among all channels instead of a threshold: scores of a Taylor criterion span ten decades, and a tie (dead
    # channels) would otherwise leave as one.
    place[np.argsort(-normalised, kind="stable")] = np.arange(len(normalised))
    places = [np.sort(row) for row in np.split(place, np.cumsum([len(row) for row in scores])[:-1])]

    def widths_of(knob: float) -> FloatArray:
        return np.array([np.searchsorted(row, knob * len(place)) for row in places], dtype=np.float64)

    return bisected(space, widths_of)


def keep_highest(scores: Sequence[FloatArray], widths: Sequence[int]) -> Kept:
    """Returns the channels of the highest scores, of equal ones the first."""
    return Kept(
        tuple(
            np.sort(np.argsort(-row, kind="stable")[:width]).astype(np.int64)
            for row, width in zip(scores, widths, strict=True)
        )
    )


def require_finite(space: SearchSpace, scores: Sequence[FloatArray]) -> None:
    """Raises ModelError if a score is not a finite number."""
    for group, row in zip(space.groups, scores, strict=True):
        if not np.isfinite(row).all():
            raise ModelError(
                f"The channels of {group.name!r} cannot be ranked: some scores are not finite. Check that the "
                "network's weights, and its outputs on the training images, are finite numbers."
            )


def _scale(row: FloatArray, normalised_by: str) -> float:
    """Returns what to divide a group's scores by, never 0."""
    if normalised_by == "none":
        return 1.0
    return float(row.mean() if normalised_by == "mean" else np.linalg.norm(row)) or 1.0
