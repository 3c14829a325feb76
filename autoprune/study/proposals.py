"""The dialogue with a strategy: one tell for every ask, and no structure evaluated twice.

A strategy may propose what was asked before: swarms converge. Such a proposal costs no candidate. The strategy is told
the known result, at once or as soon as it is known, and asked again; when it keeps repeating itself, a neighbour of the
best structure takes its place.

Every ask carries an id of its own, so that a strategy may use it as a key or a seed. The first ask for a candidate
carries the candidate's id, each repetition an id beyond `SPARE_IDS`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from autoprune.core.candidate import Evaluation, Outcome
from autoprune.core.seams import Strategy
from autoprune.core.seeds import generator
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure, fits
from autoprune.errors import StructureError

#: Known structures that a strategy may propose in a row before a neighbour of the best takes its place.
RETRIES = 50
#: Ids from here on belong to repeated asks, never to candidates.
SPARE_IDS = 1_000_000_000
_NEIGHBOURS = 32
_REACH = 0.3


@dataclass(frozen=True, slots=True)
class Proposal:
    """A structure that was never asked before, and who proposed it."""

    structure: Structure
    proposed_by: str


class Proposer:
    """Asks one strategy, and tells it the last word on whatever it proposed."""

    def __init__(self, space: SearchSpace, strategy: Strategy, *, seed: int) -> None:
        self._space = space
        self._strategy = strategy
        self._seed = seed
        self._used: set[int] = set()
        self._spare = SPARE_IDS
        self._open: dict[Structure, list[int]] = {}
        self._held: deque[Proposal] = deque()

    def propose(
        self, candidate_id: int, *, last_words: Mapping[Structure, Outcome | None], centre: Structure | None
    ) -> Proposal | None:
        """Returns a structure that was never asked before, or None when the strategy has nothing now.

        Args:
            candidate_id: the id that the proposal will have.
            last_words: every structure asked so far, with its last outcome, or None while it is pending.
            centre: the best structure so far, whose neighbours replace a strategy that repeats itself.

        Raises:
            StructureError: the strategy proposed widths that do not fit the network.
        """
        while self._held:
            held = self._held.popleft()
            if held.structure not in last_words:
                return held
            self._repeat(last_words[held.structure])
        for _ in range(RETRIES):
            ask_id = self._fresh_id(candidate_id)
            structure = self._strategy.ask(ask_id)
            if structure is None:
                return None
            self._require_fit(structure)
            self._used.add(ask_id)
            self._open.setdefault(structure, []).append(ask_id)
            if structure not in last_words:
                return Proposal(structure, self._strategy.name)
            self._repeat(last_words[structure])
        return self._neighbour(candidate_id, last_words, centre)

    def hold(self, proposal: Proposal) -> None:
        """Keeps a proposal for later, in whose place another structure was taken."""
        self._held.append(proposal)

    def settle(self, outcome: Outcome) -> None:
        """Tells the strategy the last word on a structure, once for every time that it proposed it."""
        for ask_id in self._open.pop(outcome.candidate.structure, []):
            self._strategy.tell(replace(outcome, candidate=replace(outcome.candidate, id=ask_id)))

    def _repeat(self, outcome: Outcome | None) -> None:
        # While the structure is pending, its open asks wait for `settle`.
        if isinstance(outcome, Evaluation):
            self.settle(replace(outcome, reused=True, seconds=0.0))
        elif outcome is not None:
            self.settle(replace(outcome, seconds=0.0))

    def _fresh_id(self, candidate_id: int) -> int:
        if candidate_id not in self._used:
            return candidate_id
        self._spare += 1
        return self._spare

    def _neighbour(
        self, candidate_id: int, known: Mapping[Structure, Outcome | None], centre: Structure | None
    ) -> Proposal | None:
        rng = generator(self._seed, "exchange", candidate_id)
        near = [] if centre is None else self._space.exchange(centre, rng, count=_NEIGHBOURS, reach=_REACH)
        for structure in [*near, *self._space.sample(_NEIGHBOURS, rng)]:
            if structure not in known:
                return Proposal(structure, f"{self._strategy.name}+exchange")
        return None

    def _require_fit(self, structure: Structure) -> None:
        if not fits(structure, self._space.groups):
            raise StructureError(
                f"Strategy {self._strategy.name!r} proposed the widths {structure.widths} for groups of dense widths "
                f"{self._space.dense.widths}. Let it return structures of `space.decode` or `space.project`."
            )
