"""Branches that may vanish: groups of a residual branch whose widths become zero together.

A branch without an internal channel carries nothing of the image; all that is left of it is a constant. Half a branch
would be paid for and carry nothing either, so a zero in one of its groups is a zero in all of them.

Notation:
    w   (P, G)  widths of P structures over G groups
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoprune.core.structure import PrunableGroup

FloatArray = npt.NDArray[np.float64]

#: Share of random proposals that drop a branch, or bring one back. By widths alone hardly any would: below 1/32 of
#: 16 channels. [OURS]
_FLIPPED = 0.25


class Branches:
    """The branches of a space that may vanish; falsy where there is none."""

    def __init__(self, groups: Sequence[PrunableGroup]) -> None:
        """Reads them from the groups."""
        members: dict[str, list[int]] = defaultdict(list)
        for index, group in enumerate(groups):
            if group.may_vanish:
                members[group.branch].append(index)
        self._members = tuple(np.asarray(indices, dtype=np.int64) for indices in members.values())
        self._dense = np.asarray([group.width for group in groups], dtype=np.float64)

    def __bool__(self) -> bool:
        return bool(self._members)

    def closed(self, widths: FloatArray) -> FloatArray:
        """Returns (P, G) widths in which a zero in one group of a branch is a zero in all of them."""
        closed = widths.copy()
        for indices in self._members:
            gone = (widths[:, indices] <= 0).any(axis=1)
            closed[np.ix_(gone, indices)] = 0.0
        return closed

    def flipped(self, widths: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Returns (P, G) widths of which some have lost a branch, or have one back at their own share of the rest."""
        flipped = widths.copy()
        if not self._members:
            return flipped
        chosen = rng.integers(len(self._members), size=len(widths))
        for row in np.flatnonzero(rng.random(len(widths)) < _FLIPPED):
            indices = self._members[chosen[row]]
            left = widths[row] > 0
            share = float(np.mean(widths[row][left] / self._dense[left])) if left.any() else 1.0
            back = np.maximum(1.0, share * self._dense[indices])
            flipped[row, indices] = back if (widths[row, indices] <= 0).any() else 0.0
        return flipped
