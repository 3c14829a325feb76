"""How long one rung of one candidate may take before it counts as hung."""

from __future__ import annotations

from autoprune.backends.evaluating import Timed
from autoprune.core.candidate import Evaluation

#: A limit that nobody asked for is this many times the slowest evaluation of the same rung, and never below so many
#: seconds. Generous on purpose: a candidate that is given up is lost, and a worker that hangs costs a share of the
#: search. Widths differ severalfold within a budget, and so does a machine that somebody else uses besides.
TIMES, LEAST_SECONDS = 20.0, 600.0


class Patience:
    """Limits by rung: the one that was asked for, or what the evaluations so far allow.

    A rung that nobody has finished has none: a finetune may take a day, and only another one tells.

    Attributes:
        asked: seconds, None for limits that follow from what is measured.
    """

    def __init__(self, asked: float | None) -> None:
        """Begins without anything measured."""
        self.asked = asked
        self._slowest: dict[int, float] = {}

    def heard(self, timed: Timed) -> bool:
        """Takes an outcome; returns whether the limit of its rung is another now."""
        outcome, seconds = timed.outcome, timed.ended - timed.started
        level = outcome.candidate.fidelity.level
        before = self.limit(level)
        if timed.overdue:
            # It may be a slow machine among fast ones: the next is waited for twice as long.
            slowest = 2 * seconds / TIMES
        elif isinstance(outcome, Evaluation) and not outcome.reused:
            slowest = seconds
        else:
            return False  # failures break off early, and answers that were known take no time
        self._slowest[level] = max(self._slowest.get(level, 0.0), slowest)
        return self.limit(level) != before

    def limit(self, level: int) -> float | None:
        """Returns how many seconds a rung may take, None for no limit."""
        if self.asked is not None or level not in self._slowest:
            return self.asked
        return max(LEAST_SECONDS, TIMES * self._slowest[level])
