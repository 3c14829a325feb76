"""Our own one-shot method: the widths that lose least of what consumers read, per unit of cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autoprune.methods.base import Pruned, Subject
from autoprune.methods.options import unpublished
from autoprune.models.reduction.selection import keep_best
from autoprune.strategies.heuristics import heuristic_structure


@dataclass(frozen=True)
class Heuristic:
    """Widths by a heuristic of the search, channels by elimination (`models.reduction.elimination`, [OURS]).

    Attributes:
        name: of `autoprune.strategies.heuristics`.
        as_published: nothing of it is published.
    """

    source: ClassVar[str] = "ours: least error of a linear reconstruction for the cost"
    trains: ClassVar[bool] = False

    name: str = "reconstruction"
    as_published: bool = False

    def __post_init__(self) -> None:
        if self.as_published:
            raise unpublished("The heuristics are our own: there is no published setting.")

    def prune(self, subject: Subject) -> Pruned:
        """Returns the channels of the heuristic's widths."""
        structure = heuristic_structure(self.name, subject.space, subject.profile())
        return Pruned(keep_best(subject.rankings, structure.widths), subject.model, facts={"heuristic": self.name})
