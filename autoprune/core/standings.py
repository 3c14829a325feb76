"""Where a search stands: its best candidate and its front, kept up as outcomes come in."""

from __future__ import annotations

from autoprune.core.candidate import Evaluation
from autoprune.core.front import ParetoFront, rank


class Standings:
    """The latest evaluation of every candidate within budget. Telling the same one twice changes nothing.

    The study, whoever watches it and whoever reports on it later all keep these, so that they name the same incumbent.

    Attributes:
        resource: that the front trades for accuracy, and that decides between equal scores.
        best: the incumbent: the highest rung, of that the best score, then the cheapest, then the earliest; None while
            there is no candidate.
    """

    def __init__(self, resource: str = "macs") -> None:
        """Starts empty."""
        self.resource = resource
        self.best: Evaluation | None = None
        self._latest: dict[int, Evaluation] = {}

    def tell(self, evaluation: Evaluation) -> None:
        """Takes an evaluation in; one over budget, or of a lower rung than is known of its candidate, is ignored."""
        candidate = evaluation.candidate
        known = self._latest.get(candidate.id)
        if not candidate.legal or (known is not None and candidate.fidelity.level < known.candidate.fidelity.level):
            return
        self._latest[candidate.id] = evaluation
        if self.best is None or rank(evaluation, self.resource) < rank(self.best, self.resource):
            self.best = evaluation

    @property
    def peers(self) -> tuple[Evaluation, ...]:
        """Those on the highest rung reached, in no order: only they compare."""
        if self.best is None:
            return ()
        top = self.best.candidate.fidelity.level
        return tuple(one for one in self._latest.values() if one.candidate.fidelity.level == top)

    @property
    def front(self) -> ParetoFront:
        """Those on the highest rung reached that no other of that rung dominates; the best is the dearest of them."""
        return ParetoFront.of(self.peers, self.resource)
