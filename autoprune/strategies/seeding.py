"""Structures worth trying first: what the heuristics propose, over the whole band when a front is searched."""

from __future__ import annotations

from autoprune.core.profile import ModelProfile
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.strategies.base import with_ceiling
from autoprune.strategies.heuristics import heuristic_structures

#: Positions in a band at which the heuristics are solved: from its upper end down, just above its lower end.
_POSITIONS = (1.0, 0.5, 0.02, 0.75, 0.25)


def seed_structures(space: SearchSpace, profile: ModelProfile | None) -> list[Structure]:
    """Returns distinct structures, the most promising heuristic first, position by position in a band.

    Without a profile the uniform structures remain.
    """
    positions = _POSITIONS if space.is_band else (1.0,)
    found: list[Structure] = []
    for position in positions:
        narrowed = with_ceiling(space, position)
        found += [*heuristic_structures(narrowed, profile).values(), narrowed.uniform()]
    return list(dict.fromkeys(structure for structure in found if space.is_legal(structure)))
