"""Where a search stands: its best candidate, its front and their hypervolume, kept up as outcomes come in."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.core.candidate import Evaluation
from autoprune.core.cost import Cost
from autoprune.core.front import hypervolume


@dataclass(frozen=True, slots=True)
class Standing:
    """What one rung said of a candidate, without its widths: enough to rank it.

    Attributes:
        id: the candidate's.
        level: the rung.
        score: in [0, 1].
        accuracy: hold-out top-1, in [0, 1].
        cost: of the cut network, in the resource that the front trades for accuracy.
    """

    id: int
    level: int
    score: float
    accuracy: float
    cost: int

    @property
    def rank(self) -> tuple[float, int]:
        """Ascending order of candidates: those that climbed higher were better below; first come, first served."""
        return (self.level + self.score, -self.id)


class Standings:
    """The latest standing of every candidate. Adding the same one twice changes nothing.

    Attributes:
        resource: that the front trades for accuracy.
    """

    def __init__(self, resource: str = "macs") -> None:
        """Starts empty."""
        self.resource = resource
        self._latest: dict[int, Standing] = {}

    def __len__(self) -> int:
        return len(self._latest)

    def tell(self, evaluation: Evaluation) -> None:
        """Takes in what an evaluation says of its candidate."""
        candidate = evaluation.candidate
        cost = candidate.cost.of(self.resource)
        self.add(Standing(candidate.id, candidate.fidelity.level, evaluation.score, evaluation.accuracy, cost))

    def add(self, standing: Standing) -> None:
        """Takes a standing in; one of a lower rung than is known of the candidate is ignored."""
        known = self._latest.get(standing.id)
        if known is None or standing.level >= known.level:
            self._latest[standing.id] = standing

    @property
    def best(self) -> Standing | None:
        """The incumbent, if there is any candidate."""
        return max(self._latest.values(), key=lambda one: one.rank, default=None)

    @property
    def peers(self) -> tuple[Standing, ...]:
        """Those on the highest rung reached, in no order: only they compare."""
        best = self.best
        return () if best is None else tuple(one for one in self._latest.values() if one.level == best.level)

    @property
    def front(self) -> tuple[Standing, ...]:
        """Those on the highest rung reached that no other of that rung dominates, cheapest first."""
        kept: list[Standing] = []
        for one in sorted(self.peers, key=lambda one: (one.cost, -one.score, one.id)):
            if not kept or one.score > kept[-1].score:
                kept.append(one)
        return tuple(kept)

    def hypervolume(self, dense: Cost, reference: tuple[float, float] = (0.0, 1.0)) -> float:
        """Returns the area that the front dominates over (score, share of the dense cost) against a reference point."""
        whole = dense.of(self.resource)
        return hypervolume([(one.score, one.cost / whole) for one in self.front], reference)
