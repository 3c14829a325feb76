"""What a pruning step of PSAP decides by: how sparse each group is, which channels are protected, which are closed.

All of it is [OURS] on the abstract of arXiv 2303.11881: no formula could be had (see `psap`).

Notation:
    G, N  groups; channels of a group
    WSR   weight sparsity ratio of a group: the share of its weights that are small
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.cost import FloatArray
from autoprune.methods.softly import Mask

#: Quantile of all normalised weights below which a weight is small.
_SMALL_QUANTILE = 0.3
#: A filter is small where its mean |w| is under this share of its layer's.
_SMALL_FILTER = 0.5
#: Share of the closed gates of a group that may open at a step.
_REOPENED = 0.1


def sparsity_ratios(filters: Sequence[FloatArray], variant: str) -> FloatArray:
    """Returns (G,) WSR of every group from its (N, d) filters.

    Gaussian layers of any scale have the same `global` ratio; differences measure how peaked, hence redundant, the
    weights of a layer are.
    """
    if variant == "filter":
        means = [np.abs(rows).mean(1) for rows in filters]
        return np.array([float((row < _SMALL_FILTER * row.mean()).mean()) for row in means])
    sizes = [np.abs(rows) / (_rms(rows) if variant == "global" else 1.0) for rows in filters]
    threshold = np.quantile(np.concatenate([row.ravel() for row in sizes]), _SMALL_QUANTILE)
    return np.array([float((row <= threshold).mean()) for row in sizes])


def protected_channels(scores: FloatArray, alive: Mask, *, threshold: float) -> Mask:
    """Returns the (N,) mask of channels above the threshold; of the closed ones at most the best tenth of them.

    The cap is ours: near an optimum the gates of open channels have hardly any gradient and those of closed ones do, so
    that without it most closed gates open at every step and the network never settles.
    """
    safe = scores > threshold
    closed = np.flatnonzero(~alive)
    ranked = closed[np.argsort(-scores[closed], kind="stable")]
    safe[ranked[int(np.ceil(_REOPENED * len(closed))) :]] = False
    return safe


def choose_closed(norms: FloatArray, safe: Mask, alive: Mask, *, count: int) -> Mask:
    """Returns the (N,) mask of `count` channels to close: smallest norms first, protected ones after all others.

    Of equal norms closed channels go first, so that gates do not flicker.
    """
    order = np.lexsort((alive, norms, safe))
    closed = np.zeros(len(norms), dtype=bool)
    closed[order[:count]] = True
    return closed


def _rms(rows: FloatArray) -> float:
    return float(np.sqrt((rows**2).mean())) or 1.0
