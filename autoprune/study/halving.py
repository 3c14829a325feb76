"""Who climbs the ladder: asynchronous successive halving.

After Li et al. 2020 (A System for Massively Parallel Hyperparameter Tuning, algorithm 2), with three departures: the
decision falls at the tell rather than at the next free worker, so that a worker keeps what it has just built; the first
`keep` candidates of a rung always climb, so that every rung is reached early; and a candidate that belongs to the top
only later is promoted late, when nothing new can be proposed.

Notation:
    n   candidates within budget that have a score on a rung
    q   quota of a rung: `ceil(n / keep)`, the best q of the n climb on
"""

from __future__ import annotations

import math

import numpy as np

from autoprune.core.candidate import Evaluation, Ladder


def dominators(evaluations: list[Evaluation]) -> list[int]:
    """Returns, for each evaluation, how many of the others are at least as good in score and MACs and better in one."""
    scores = np.asarray([evaluation.score for evaluation in evaluations])
    macs = np.asarray([evaluation.candidate.cost.macs for evaluation in evaluations])
    no_worse = (scores[None, :] >= scores[:, None]) & (macs[None, :] <= macs[:, None])
    better = (scores[None, :] > scores[:, None]) | (macs[None, :] < macs[:, None])
    return [int(count) for count in (no_worse & better).sum(axis=1)]


def ranked(evaluations: list[Evaluation], *, whole_front: bool) -> list[Evaluation]:
    """Returns the evaluations of one rung, the best first.

    Args:
        evaluations: of one rung.
        whole_front: rank by the number of dominators first, as a search over a band of budgets needs: by score alone,
            only the dear end of the band would climb.
    """
    order = dominators(evaluations) if whole_front else [0] * len(evaluations)
    pairs = sorted(
        zip(order, evaluations, strict=True),
        key=lambda pair: (pair[0], -pair[1].score, pair[1].candidate.cost.macs, pair[1].candidate.id),
    )
    return [evaluation for _, evaluation in pairs]


class Halving:
    """Scores seen per rung, and the promotions that follow from them."""

    def __init__(self, ladder: Ladder, *, whole_front: bool) -> None:
        self._ladder = ladder
        self._whole_front = whole_front
        self._seen: list[list[Evaluation]] = [[] for _ in ladder.rungs]
        self._climbed: list[set[int]] = [set() for _ in ladder.rungs]
        self._late: Evaluation | None = None
        self._stale = False

    def climbs(self, evaluation: Evaluation) -> bool:
        """Records a score within budget; returns whether its candidate is among those that climb on."""
        level = evaluation.candidate.fidelity.level
        seen = self._seen[level]
        first = len(seen) < self._ladder.keep
        seen.append(evaluation)
        self._stale = True
        return level < self._ladder.top.level and (first or evaluation in self._top(level))

    def promoted(self, candidate_id: int, *, level: int) -> None:
        """Notes that a candidate leaves a rung upwards, for whatever reason."""
        self._climbed[level].add(candidate_id)
        self._stale = True

    @property
    def late(self) -> Evaluation | None:
        """The best of the candidates that were stopped but belong to the top by now; the highest rung first."""
        if self._stale:
            self._late = self._find_late()
            self._stale = False
        return self._late

    def _find_late(self) -> Evaluation | None:
        for level in reversed(range(self._ladder.top.level)):
            for evaluation in self._top(level):
                if evaluation.candidate.id not in self._climbed[level]:
                    return evaluation
        return None

    def _top(self, level: int) -> list[Evaluation]:
        seen = self._seen[level]
        quota = math.ceil(len(seen) / self._ladder.keep)
        return ranked(seen, whole_front=self._whole_front)[:quota]
