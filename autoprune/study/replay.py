"""Resuming: a ledger replayed into a fresh study.

The study asks its strategy again, just as it did then, and every answer is compared with the ledger. A deterministic
strategy is afterwards in the state in which the search was left. From the first answer that differs (a strategy that
is not deterministic, another version of a library), the ledger is taken at its word: its candidates and outcomes are
adopted, the strategy hears only of what it proposed itself, and nothing that was computed is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.core.candidate import Candidate
from autoprune.core.seams import Tracker
from autoprune.errors import RunError
from autoprune.study.history import Asked, Reading, Step, Told, fitting
from autoprune.study.ledger import Event
from autoprune.study.study import Study


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay restored.

    Attributes:
        candidates: candidates asked.
        outcomes: outcomes told.
        pending: candidates asked and not told, which the study hands out first.
        diverged_at: the first candidate whose proposal differed from the ledger, or None.
    """

    candidates: int
    outcomes: int
    pending: int
    diverged_at: int | None


def replay(events: Sequence[Event], study: Study, *, heard_by: Sequence[Tracker] = ()) -> Replayed:
    """Brings a fresh study to the state that a ledger describes.

    The study's own trackers hear nothing: they heard it when it happened.

    Args:
        events: of `read_ledger` or `Ledger.events`.
        study: with nothing asked yet.
        heard_by: trackers that are to hear the past, such as a progress display.

    Raises:
        RunError: the ledger does not fit the study.
    """
    if study.proposed:
        raise RunError("Only a study that has not asked anything yet can replay a ledger. Build a fresh one.")
    player = _Player(study)
    with study.heard_by(heard_by):
        for step in player.reading.steps(events):
            with fitting(step.line):
                player.play(step)
    study.reissue_pending()
    outcomes = len(study.evaluations) + len(study.failures)
    return Replayed(study.proposed, outcomes, len(study.pending), player.diverged_at)


class _Player:
    """Plays one step after another into a study."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self.reading = Reading(study.ladder.rungs, study.space.groups, self._here)
        self.diverged_at: int | None = None

    def play(self, step: Step) -> None:
        """Asks or tells as it was asked or told."""
        if isinstance(step, Asked):
            self._asked(step.candidate)
        elif isinstance(step, Told):
            self._told(step)
        elif self.diverged_at is None and not self._study.ask_for(None):
            self.diverged_at = self._study.proposed

    def _here(self, recorded: Candidate) -> Candidate:
        level, proposed_by = recorded.fidelity.level, recorded.proposed_by
        return self._study.candidate_from(recorded.id, recorded.structure, level=level, proposed_by=proposed_by)

    def _asked(self, candidate: Candidate) -> None:
        if self.diverged_at is not None:
            self._study.adopt(candidate)
        elif not self._study.ask_for(candidate):
            self.diverged_at = candidate.id

    def _told(self, step: Told) -> None:
        rung = self._study.tell(step.outcome)
        here = None if rung is None else rung.level
        if step.climbs_to != here:
            number = step.outcome.candidate.id
            raise RunError(f"Candidate {number} {_way(step.climbs_to)} there, but {_way(here)} here.")


def _way(rung: int | None) -> str:
    return "climbed no further" if rung is None else f"went on to rung {rung}"
