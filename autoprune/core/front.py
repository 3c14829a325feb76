"""Pareto fronts of accuracy (up) against cost (down), and the hypervolume that measures them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.core.candidate import Evaluation
from autoprune.core.cost import Cost


def hypervolume(points: npt.ArrayLike, reference: tuple[float, float]) -> float:
    """Returns the area between a set of points and the reference point that at least one point dominates.

    Args:
        points: (P, 2) pairs (score, share of the dense cost); score is maximised, the share minimised.
        reference: (score, share), worse than every point that is to count.
    """
    pairs = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    worst_score, worst_share = reference
    pairs = pairs[(pairs[:, 0] > worst_score) & (pairs[:, 1] < worst_share)]
    area, best = 0.0, worst_score
    # Cheapest first: each point adds the strip between the best score so far and its own.
    for score, share in pairs[np.lexsort((-pairs[:, 0], pairs[:, 1]))]:
        if score > best:
            area += (score - best) * (worst_share - share)
            best = score
    return float(area)


def rank(evaluation: Evaluation, resource: str) -> tuple[float, ...]:
    """Returns what the incumbent has the least of: the highest rung, the best score, the cheapest, the earliest.

    What the front trades for accuracy decides between equal scores, so that the incumbent is always on the front.
    """
    candidate = evaluation.candidate
    return (-candidate.fidelity.level, -evaluation.score, candidate.cost.of(resource), candidate.id)


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """The evaluations of one rung that no other of that rung dominates, cheapest first.

    Attributes:
        evaluations: those on the front.
        resource: whose amount is the cost.
    """

    evaluations: tuple[Evaluation, ...]
    resource: str = "macs"

    @classmethod
    def of(cls, evaluations: Iterable[Evaluation], resource: str = "macs") -> ParetoFront:
        """Returns the front over score and a resource; of equal pairs the lowest candidate id stays."""
        ordered = sorted(evaluations, key=lambda e: (e.candidate.cost.of(resource), -e.score, e.candidate.id))
        kept: list[Evaluation] = []
        for evaluation in ordered:
            if not kept or evaluation.score > kept[-1].score:
                kept.append(evaluation)
        return cls(tuple(kept), resource)

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self.evaluations)

    def __len__(self) -> int:
        return len(self.evaluations)

    def hypervolume(self, dense: Cost, reference: tuple[float, float] = (0.0, 1.0)) -> float:
        """Returns the dominated area over (score, share of the dense cost) against the reference point."""
        whole = dense.of(self.resource)
        points = [(e.score, e.candidate.cost.of(self.resource) / whole) for e in self.evaluations]
        return hypervolume(points, reference)
