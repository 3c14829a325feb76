"""Pareto fronts of accuracy (up) against MACs (down), and the hypervolume that measures them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.core.candidate import Evaluation


def is_dominated(score: float, macs: float, others: Iterable[tuple[float, float]]) -> bool:
    """Returns whether some (score, MACs) pair is at least as good in both and better in one."""
    return any(s >= score and m <= macs and (s > score or m < macs) for s, m in others)


def hypervolume(points: npt.ArrayLike, reference: tuple[float, float]) -> float:
    """Returns the area between a set of points and the reference point that at least one point dominates.

    Args:
        points: (P, 2) pairs (score, share of dense MACs); score is maximised, the share minimised.
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


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """The evaluations of one rung that no other of that rung dominates, cheapest first."""

    evaluations: tuple[Evaluation, ...]

    @classmethod
    def of(cls, evaluations: Iterable[Evaluation]) -> ParetoFront:
        """Returns the front; of equal (score, MACs) pairs the lowest candidate id stays."""
        ordered = sorted(evaluations, key=lambda e: (e.candidate.cost.macs, -e.score, e.candidate.id))
        kept: list[Evaluation] = []
        for evaluation in ordered:
            if not kept or evaluation.score > kept[-1].score:
                kept.append(evaluation)
        return cls(tuple(kept))

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self.evaluations)

    def __len__(self) -> int:
        return len(self.evaluations)

    def hypervolume(self, dense_macs: int, reference: tuple[float, float] = (0.0, 1.0)) -> float:
        """Returns the dominated area over (score, share of dense MACs) against the reference point."""
        points = [(e.score, e.candidate.cost.macs / dense_macs) for e in self.evaluations]
        return hypervolume(points, reference)
