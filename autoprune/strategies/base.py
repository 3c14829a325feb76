"""What the strategies share: book-keeping of proposals, and one scale for outcomes of different rungs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from autoprune.core.budget import Limit
from autoprune.core.candidate import Evaluation, Outcome
from autoprune.core.cost import FloatArray
from autoprune.core.seeds import generator
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.errors import ConfigError

#: Attempts to turn a structure that was proposed before into a new neighbour.
_ATTEMPTS = 6
_REACH = 0.15


class ProposingStrategy(ABC):
    """A strategy that remembers what it proposed and never proposes a structure twice.

    Subclasses answer `_next` and may listen to `_learn`; what `_next` returns counts as proposed. Outcomes of
    candidates that others proposed, such as the study's baselines, are heard too.

    Attributes:
        name: as in `--strategy`.
        space: what is searched.
        outcomes: the last outcome of every told candidate, by structure.
    """

    name: str

    def __init__(self, space: SearchSpace, *, name: str, seed: int, candidates: int) -> None:
        if candidates < 1:
            raise ConfigError(f"A search over {candidates} candidates finds nothing. Write a number of at least 1.")
        self.name = name
        self.space = space
        self.outcomes: dict[Structure, Outcome] = {}
        self._seed = seed
        self._candidates = candidates
        self._proposed: dict[Structure, int] = {}
        self._pending: dict[int, Structure] = {}

    def ask(self, candidate_id: int) -> Structure | None:
        """Returns the next proposal, or None when there is none before the next tell."""
        structure = self._next(candidate_id)
        if structure is not None:
            self._proposed[structure] = candidate_id
            self._pending[candidate_id] = structure
        return structure

    def tell(self, outcome: Outcome) -> None:
        """Takes the last word on a candidate."""
        structure = outcome.candidate.structure
        self._pending.pop(outcome.candidate.id, None)
        self.outcomes[structure] = outcome
        self._learn(outcome)

    @property
    def evaluations(self) -> list[Evaluation]:
        """What was evaluated successfully, by candidate id, so that the order of telling does not matter."""
        found = [outcome for outcome in self.outcomes.values() if isinstance(outcome, Evaluation)]
        return sorted(found, key=lambda evaluation: evaluation.candidate.id)

    @abstractmethod
    def _next(self, candidate_id: int) -> Structure | None:
        """Returns a structure not proposed before, or None."""

    def _learn(self, outcome: Outcome) -> None:  # noqa: ARG002 - a hook
        """Hears of an outcome; most strategies read `evaluations` when asked instead."""
        return

    def _rng(self, *path: str | int) -> np.random.Generator:
        return generator(self._seed, "strategy", self.name, *path)

    def _is_new(self, structure: Structure) -> bool:
        return structure not in self._proposed and structure not in self.outcomes

    def _fresh(self, structure: Structure, rng: np.random.Generator) -> Structure | None:
        """Returns the structure if it is new, else a new neighbour, else None: the surroundings are exhausted."""
        if self._is_new(structure):
            return structure
        for attempt in range(_ATTEMPTS):
            for neighbour in self.space.exchange(structure, rng, count=8, reach=_REACH * (1 + attempt)):
                if self._is_new(neighbour):
                    return neighbour
        return next((other for other in self.space.sample(32, rng) if self._is_new(other)), None)


class ListStrategy(ProposingStrategy):
    """Proposes a fixed list of structures, each once, then nothing."""

    def __init__(
        self, space: SearchSpace, *, name: str, seed: int, candidates: int, structures: Iterable[Structure]
    ) -> None:
        super().__init__(space, name=name, seed=seed, candidates=candidates)
        self._left = list(dict.fromkeys(structures))

    def _next(self, candidate_id: int) -> Structure | None:  # noqa: ARG002 - the list does not depend on it
        while self._left:
            structure = self._left.pop(0)
            if self._is_new(structure):
                return structure
        return None


class RandomStrategy(ProposingStrategy):
    """Proposes uniform points of the cube, projected onto the budget: the control every search must beat."""

    def _next(self, candidate_id: int) -> Structure | None:
        rng = self._rng(candidate_id)
        return self._fresh(self.space.sample(1, rng)[0], rng)


def common_scale(evaluations: Sequence[Evaluation]) -> FloatArray:
    """Returns (P,) values on one scale for outcomes of different rungs, higher is better, in the order of merit.

    Merits jump from rung to rung, so a model cannot be fitted to them as they are. Within a rung the scores are
    kept. A rung is put on top of the one below: its worst score meets the best score that stayed below (whatever
    climbed was better there), and its spread is at most what those that climbed may have spread there.
    """
    levels = np.array([evaluation.candidate.fidelity.level for evaluation in evaluations])
    scores = np.array([evaluation.score for evaluation in evaluations], dtype=np.float64)
    values = scores.copy()
    floor: float | None = None
    spread = 0.0
    for level in np.unique(levels):
        here = levels == level
        if floor is not None:
            own = float(scores[here].std())
            # A dearer rung compresses differences; but never stretch them beyond what the rung below showed.
            factor = min(1.0, _CLIMBING_SPREAD * spread / own) if own > 0 and spread > 0 else 1.0
            values[here] = floor + (scores[here] - scores[here].min()) * factor
        spread = max(spread, _robust_spread(values[here]))
        floor = float(values[here].max())
    return values


#: Of the spread of a rung, what those that climb from it may spread. A guess on the low side: of a normal sample the
#: best third spreads 0.53 and the best half 0.60, but strategies do not know the ladder. Others were not measured.
_CLIMBING_SPREAD = 0.45


def _robust_spread(values: npt.NDArray[np.float64]) -> float:
    """Returns the interquartile range as a standard deviation, or the plain one for few values."""
    if len(values) < 8:
        return float(values.std())
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low) / 1.349


def with_ceiling(space: SearchSpace, share: float) -> SearchSpace:
    """Returns the space with its band narrowed to one budget.

    Args:
        space: with or without a band; without, it is returned as it is.
        share: where in the band, 0 its lower and 1 its upper end.
    """
    if not space.is_band:
        return space

    def narrowed(limit: Limit) -> Limit:
        ceiling = round(limit.floor + share * (limit.ceiling - limit.floor))
        return replace(limit, floor=ceiling, ceiling=ceiling) if limit.is_band else limit

    return replace(space, limits=tuple(narrowed(limit) for limit in space.limits))
