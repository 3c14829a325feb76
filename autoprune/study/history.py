"""What a ledger tells, as values: the candidates that were asked and the outcomes that were told.

A search that goes on, a report and a pick read ledgers here and nowhere else. Whoever reads says what a recorded
candidate is `here`: a study makes it anew, a report takes it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from autoprune.core.candidate import Candidate, Evaluation, Fidelity, Outcome
from autoprune.core.cost import Cost
from autoprune.core.structure import PrunableGroup, Structure, fits
from autoprune.errors import AutopruneError, RunError
from autoprune.study.ledger import Event, decode_told


@dataclass(frozen=True, slots=True)
class Asked:
    """A candidate was proposed, or promoted late; `line` is that of the ledger."""

    line: int
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Told:
    """A rung said something of a candidate, which went on to another rung or, with None, to none."""

    line: int
    outcome: Outcome
    climbs_to: int | None


@dataclass(frozen=True, slots=True)
class Waited:
    """The strategy had nothing to propose."""

    line: int


Step = Asked | Told | Waited


@dataclass(frozen=True, slots=True)
class Reading:
    """How one reader understands a ledger.

    Attributes:
        rungs: the ladder of the search.
        groups: of the network, in the order of every structure.
        here: what a recorded candidate is to the reader, by the costs and the seed that the reader expects of it.
    """

    rungs: Sequence[Fidelity]
    groups: Sequence[PrunableGroup]
    here: Callable[[Candidate], Candidate]

    def steps(self, events: Sequence[Event]) -> Iterator[Step]:
        """Yields what the events tell, in their order.

        Raises:
            RunError: an event is none that a search of this network can have written.
        """
        asked: dict[int, Candidate] = {}
        for line, event in enumerate(events, start=1):
            with fitting(line):
                step = self._step(line, event, asked)
            if isinstance(step, Asked):
                asked[step.candidate.id] = step.candidate
            if step is not None:
                yield step

    def evaluations(self, events: Sequence[Event]) -> list[Evaluation]:
        """Returns the evaluations that the events tell of, in their order.

        Raises:
            RunError: an event is none that a search of this network can have written.
        """
        told = (step.outcome for step in self.steps(events) if isinstance(step, Told))
        return [outcome for outcome in told if isinstance(outcome, Evaluation)]

    def _step(self, line: int, event: Event, asked: dict[int, Candidate]) -> Step | None:
        kind = event["event"]
        if kind == "asked":
            return Asked(line, self._candidate(event))
        if kind == "told":
            if event["id"] not in asked:
                raise RunError(f"Candidate {event['id']} was told but never asked.")
            candidate = replace(asked[event["id"]], fidelity=self._rung(event))
            return Told(line, decode_told(event, candidate), event["next"])
        return Waited(line) if kind == "waited" else None

    def _candidate(self, event: Event) -> Candidate:
        recorded = Candidate(
            event["id"],
            Structure(tuple(event["widths"])),
            Cost.recorded(event),
            self._rung(event),
            event["seed"],
            event["proposed_by"],
        )
        if not fits(recorded.structure, self.groups):
            dense = tuple(group.width for group in self.groups)
            raise RunError(f"The widths {recorded.structure.widths} do not fit groups of dense widths {dense}.")
        candidate = self.here(recorded)
        for resource, here in candidate.cost.known.items():
            there = recorded.cost.known.get(resource, here)  # not every version knew every resource
            if there != here:
                raise RunError(f"Candidate {candidate.id} takes {there} {resource} there, {here} here.")
        if recorded.seed != candidate.seed:
            raise RunError(f"Candidate {candidate.id} has seed {recorded.seed} there, {candidate.seed} here.")
        return candidate

    def _rung(self, event: Event) -> Fidelity:
        level: int = event["level"]
        if level >= len(self.rungs):
            raise RunError(f"Candidate {event['id']} is at rung {level} of a ladder of {len(self.rungs)}.")
        return self.rungs[level]


@contextmanager
def fitting(line: int) -> Iterator[None]:
    """Turns what an event of another search breaks into one line that says where it is."""
    try:
        yield
    except (AutopruneError, KeyError, IndexError, TypeError, ValueError) as error:
        raise RunError(
            f"Line {line} of the ledger does not fit this search: {error} Lines before it may be missing: put them "
            "back. Otherwise go on with the network, the options and the version that it was started with."
        ) from error
