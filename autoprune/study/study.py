"""A search as a passive object: ask, tell, done and front, and no clock, thread, process or GPU.

A serial loop, Ray Tune and a test drive the same object. Given the same asks and tells in the same order, it answers
the same: that is how the ledger resumes a search.

What it decides:
    baselines   come first, with the first ids, and climb every rung, so that each rung has a yardstick.
    proposals   come from the strategy, until `candidates` structures in all have been asked (see `proposals`).
    climbing    asynchronous successive halving over the structures within budget (see `halving`). A structure over
                budget (some strategies probe there) stops at the first rung and never competes.
    promotions  a candidate that was stopped and later turns out to belong to the top of its rung is asked once more,
                at the next rung, as soon as the strategy has nothing new to propose. A study is done only when the
                best `ceil(n / keep)` of every rung have climbed.
    telling     a strategy hears once of every structure that it proposed: when it stops climbing. Late promotions
                are for the incumbent, not for the strategy.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from autoprune.core.candidate import Candidate, Evaluation, Failure, Fidelity, Ladder, Outcome
from autoprune.core.front import ParetoFront
from autoprune.core.seams import Strategy, Tracker
from autoprune.core.seeds import derive_seed
from autoprune.core.space import SearchSpace
from autoprune.core.standings import Standings
from autoprune.core.structure import Structure
from autoprune.errors import ConfigError, RunError
from autoprune.study.halving import Halving
from autoprune.study.proposals import Proposal, Proposer

#: When this many candidates have failed alike and none has been scored, the fault is not theirs.
HOPELESS = 20
#: And when this many have failed, for whatever reasons.
HOPELESS_ANYHOW = 60


@runtime_checkable
class WaitListener(Protocol):
    """A tracker that also hears of asks without an answer: the ledger needs them to replay a search exactly."""

    def waited(self) -> None:
        """The strategy was asked and had nothing to propose before the next tell."""
        ...


@dataclass(slots=True)
class _Record:
    """What is known of one candidate; `candidate` carries the rung that was asked last."""

    candidate: Candidate
    baseline: bool
    pending: bool = True
    outcomes: list[Outcome] = field(default_factory=list)


class Study:
    """Proposes candidates, takes outcomes, and knows the front."""

    def __init__(
        self,
        space: SearchSpace,
        strategy: Strategy,
        ladder: Ladder,
        *,
        candidates: int,
        seed: int,
        baselines: Sequence[tuple[str, Structure]] = (),
        trackers: Sequence[Tracker] = (),
    ) -> None:
        """Sets up a search that has not asked anything yet.

        Args:
            space: the legal structures and their costs.
            strategy: proposes structures.
            ladder: the fidelities to climb.
            candidates: how many structures are asked in all, baselines included.
            seed: the search seed.
            baselines: (name, structure) pairs to evaluate first; of equal structures the first stays.
            trackers: hear of everything.

        Raises:
            ConfigError: no candidate is allowed.
        """
        if candidates < 1:
            raise ConfigError(f"A search of {candidates} candidates finds nothing. Allow at least 1.")
        self.space = space
        self.ladder = ladder
        self.candidates = candidates
        self.evaluations: list[Evaluation] = []
        self.failures: list[Failure] = []
        self._seed = seed
        self._trackers: tuple[Tracker, ...] = tuple(trackers)
        named: dict[Structure, Proposal] = {}
        for name, structure in baselines:
            named.setdefault(structure, Proposal(structure, name))
        self._baselines = list(named.values())
        self._proposer = Proposer(space, strategy, seed=seed)
        self._halving = Halving(ladder, whole_front=space.is_band, resource=space.front_resource)
        self._standings = Standings(space.front_resource)
        self._records: list[_Record] = []
        self._last_words: dict[Structure, Outcome | None] = {}
        self._pending = 0
        self._reissued: deque[int] = deque()
        self._waiting = False
        self._exhausted = False

    # Driving ------------------------------------------------------------------------------------------------------

    def ask(self) -> Candidate | None:
        """Returns the next candidate to evaluate, or None: nothing before the next tell, or nothing at all.

        A candidate with a known id and a higher rung is a late promotion.
        """
        if self._reissued:
            return self._records[self._reissued.popleft()].candidate
        consults = self._consults_strategy
        candidate = self._next()
        if candidate is not None:
            self._register(candidate)
        elif consults:
            for tracker in self._trackers:
                if isinstance(tracker, WaitListener):
                    tracker.waited()
        return candidate

    def tell(self, outcome: Outcome) -> Fidelity | None:
        """Records an outcome; returns the rung the candidate climbs to next, or None when it is finished.

        Raises:
            RunError: the candidate is not being evaluated at that rung.
        """
        record = self._require_pending(outcome.candidate)
        record.outcomes.append(outcome)
        self._waiting = False
        climbs = self._climbs(record, outcome)
        rung = self.ladder.rungs[record.candidate.fidelity.level + 1] if climbs else None
        if rung is not None:
            self._halving.promoted(record.candidate.id, level=rung.level - 1)
            record.candidate = replace(record.candidate, fidelity=rung)
        else:
            record.pending = False
            self._pending -= 1
            self._last_words[record.candidate.structure] = outcome
        for tracker in self._trackers:
            tracker.told(outcome, finished=rung is None)
        if rung is None:
            self._proposer.settle(outcome)
        return rung

    @property
    def done(self) -> bool:
        """Whether every candidate has been proposed and told."""
        if self._pending:
            return False
        return self._hopeless or (self._all_proposed and self._halving.late is None)

    # Results ------------------------------------------------------------------------------------------------------

    @property
    def front(self) -> ParetoFront:
        """The Pareto front of the structures within budget, at the highest rung that any of them has reached."""
        return self._standings.front

    @property
    def incumbent(self) -> Evaluation | None:
        """The best within budget at the highest rung reached; of equal scores the cheaper, then the earlier one.

        Cheaper in what the front trades for accuracy.
        """
        return self._standings.best

    @property
    def proposed(self) -> int:
        """How many candidates have been asked."""
        return len(self._records)

    @property
    def finished(self) -> int:
        """How many candidates have had their last word."""
        return len(self._records) - self._pending

    @property
    def pending(self) -> tuple[Candidate, ...]:
        """Candidates asked and not told, at the rung they wait for."""
        return tuple(record.candidate for record in self._records if record.pending)

    @property
    def stopped_because(self) -> str | None:
        """Why the search ended without a single score, or None."""
        if self._hopeless or (self.failures and not self.evaluations and self.done and self._failed_alike):
            count = len(self.failures)
            which = "The only candidate" if count == 1 else f"All of the first {count} candidates"
            why = "for the same reason" if self._failed_alike else "for different reasons, the first"
            return f"{which} failed {why}: {self.failures[0].reason}"
        return None

    def ladder_of(self, candidate_id: int) -> tuple[Outcome, ...]:
        """Returns the outcomes of one candidate, the lowest rung first."""
        return tuple(self._records[candidate_id].outcomes)

    # Resuming -----------------------------------------------------------------------------------------------------

    @contextmanager
    def heard_by(self, trackers: Sequence[Tracker]) -> Iterator[None]:
        """Lets other trackers hear what happens meanwhile."""
        usual, self._trackers = self._trackers, tuple(trackers)
        try:
            yield
        finally:
            self._trackers = usual

    def ask_for(self, expected: Candidate | None) -> bool:
        """Asks, and takes the expected candidate whatever the answer is; returns whether the answer was expected.

        A proposal in whose place another is taken stays first in line.

        Raises:
            RunError: the search had other baselines.
        """
        answer = self._next()
        if answer != expected:
            if self.proposed < len(self._baselines):
                raise RunError(f"Candidate {self.proposed} is not the baseline that it was.")
            if answer is not None and answer.id == self.proposed:
                self._proposer.hold(Proposal(answer.structure, answer.proposed_by))
        if expected is not None:
            self._register(expected)
        return answer == expected

    def adopt(self, candidate: Candidate) -> None:
        """Takes a candidate as asked without asking the strategy, which never hears of it."""
        self._register(candidate)

    def reissue_pending(self) -> None:
        """Lets `ask` hand out again, and first, whatever was asked and not told: its worker is gone."""
        self._reissued = deque(record.candidate.id for record in self._records if record.pending)

    def candidate_from(self, candidate_id: int, structure: Structure, *, level: int, proposed_by: str) -> Candidate:
        """Returns a candidate of this study: cost, seed and rung follow from the arguments."""
        return Candidate(
            id=candidate_id,
            structure=structure,
            cost=self.space.cost(structure),
            fidelity=self.ladder.rungs[level],
            seed=derive_seed(self._seed, "candidate", candidate_id),
            proposed_by=proposed_by,
            legal=self.space.is_legal(structure),
        )

    # Deciding -----------------------------------------------------------------------------------------------------

    @property
    def _all_proposed(self) -> bool:
        return self._exhausted or self.proposed >= self.candidates

    @property
    def _consults_strategy(self) -> bool:
        """Whether the next ask goes to the strategy. After a None it is left in peace until the next tell."""
        return not (self._hopeless or self._all_proposed or self._waiting) and self.proposed >= len(self._baselines)

    @property
    def _hopeless(self) -> bool:
        if self.evaluations or len(self.failures) < HOPELESS:
            return False
        return len(self.failures) >= HOPELESS_ANYHOW or self._failed_alike

    @property
    def _failed_alike(self) -> bool:
        # "Tried to allocate 20 MiB" and "... 24 MiB" are one reason.
        return len({re.sub(r"\d+", "#", failure.reason) for failure in self.failures}) == 1

    def _next(self) -> Candidate | None:
        if self._hopeless:
            return None
        proposal = None
        if self.proposed < min(len(self._baselines), self.candidates):
            proposal = self._baselines[self.proposed]
        elif self._consults_strategy:
            proposal = self._proposal()
        if proposal is not None:
            return self.candidate_from(self.proposed, proposal.structure, level=0, proposed_by=proposal.proposed_by)
        late = self._halving.late
        if late is None:
            return None
        return replace(late.candidate, fidelity=self.ladder.rungs[late.candidate.fidelity.level + 1])

    def _proposal(self) -> Proposal | None:
        incumbent = self.incumbent
        proposal = self._proposer.propose(
            self.proposed,
            last_words=self._last_words,
            centre=None if incumbent is None else incumbent.candidate.structure,
        )
        if proposal is None:
            self._waiting = True
            self._exhausted = self._pending == 0
        return proposal

    def _register(self, candidate: Candidate) -> None:
        if candidate.id < self.proposed:
            record = self._records[candidate.id]
            record.candidate, record.pending = candidate, True
            self._halving.promoted(candidate.id, level=candidate.fidelity.level - 1)
        else:
            self._records.append(_Record(candidate, baseline=candidate.id < len(self._baselines)))
            self._last_words[candidate.structure] = None
        self._pending += 1
        for tracker in self._trackers:
            tracker.asked(candidate)

    def _climbs(self, record: _Record, outcome: Outcome) -> bool:
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
            return False
        self.evaluations.append(outcome)
        self._standings.tell(outcome)
        among_the_best = record.candidate.legal and self._halving.climbs(outcome)
        return among_the_best or (record.baseline and record.candidate.fidelity != self.ladder.top)

    def _require_pending(self, candidate: Candidate) -> _Record:
        known = 0 <= candidate.id < self.proposed
        if not known or not self._records[candidate.id].pending or self._records[candidate.id].candidate != candidate:
            raise RunError(
                f"An outcome of candidate {candidate.id} at rung {candidate.fidelity.level} was told, but it was not "
                "asked there or was told before."
            )
        return self._records[candidate.id]
