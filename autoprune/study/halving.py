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


class Ranking:
    """The evaluations of one rung, kept in order as they come: a search of thousands ranks after each of them.

    Args:
        whole_front: rank by the number of dominators first (of the others that are at least as good in score and cost
            and better in one), as a search over a band of budgets needs: by score alone, only the dear end would climb.
        resource: whose amount is the cost.
    """

    def __init__(self, *, whole_front: bool, resource: str = "macs") -> None:
        self.evaluations: list[Evaluation] = []
        self._whole_front = whole_front
        self._resource = resource
        self._scores = self._costs = self._ids = np.empty(0)
        self._dominators = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.evaluations)

    def add(self, evaluation: Evaluation) -> None:
        """Puts one in its place."""
        score, cost = evaluation.score, evaluation.candidate.cost.of(self._resource)
        by = 0
        if self._whole_front:
            no_better, no_worse = self._scores <= score, self._scores >= score
            no_cheaper, no_dearer = self._costs >= cost, self._costs <= cost
            self._dominators += no_better & no_cheaper & ~(no_worse & no_dearer)
            by = int((no_worse & no_dearer & ~(no_better & no_cheaper)).sum())
        self._dominators = np.append(self._dominators, by)
        self._scores, self._costs = np.append(self._scores, score), np.append(self._costs, cost)
        self._ids = np.append(self._ids, evaluation.candidate.id)
        self.evaluations.append(evaluation)

    def top(self, count: int) -> list[Evaluation]:
        """Returns the best, the best first; of equal ones the cheaper, then the earlier candidate."""
        order = np.lexsort((self._ids, self._costs, -self._scores, self._dominators))
        return [self.evaluations[index] for index in order[:count]]


class Halving:
    """Scores seen per rung, and the promotions that follow from them."""

    def __init__(self, ladder: Ladder, *, whole_front: bool, resource: str = "macs") -> None:
        self._ladder = ladder
        self._seen = [Ranking(whole_front=whole_front, resource=resource) for _ in ladder.rungs]
        self._climbed: list[set[int]] = [set() for _ in ladder.rungs]
        self._late: Evaluation | None = None
        self._stale = False

    def climbs(self, evaluation: Evaluation) -> bool:
        """Records a score within budget; returns whether its candidate is among those that climb on."""
        level = evaluation.candidate.fidelity.level
        seen = self._seen[level]
        first = len(seen) < self._ladder.keep
        seen.add(evaluation)
        self._stale = True
        return level < self._ladder.top.level and (first or any(one is evaluation for one in self._top(level)))

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
        return seen.top(math.ceil(len(seen) / self._ladder.keep))
