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
from autoprune.core.structure import Structure
from autoprune.errors import RunError
from autoprune.study.ledger import Event, decode_told
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
        for number, event in enumerate(events, start=1):
            try:
                player.play(event)
            except (KeyError, IndexError, TypeError, ValueError, RunError) as error:
                raise RunError(
                    f"Line {number} of the ledger does not fit this search: {error} Resume with the options and the "
                    "version that it was started with."
                ) from error
    study.reissue_pending()
    outcomes = len(study.evaluations) + len(study.failures)
    return Replayed(study.proposed, outcomes, len(study.pending), player.diverged_at)


class _Player:
    """Plays one event after another into a study."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self.diverged_at: int | None = None

    def play(self, event: Event) -> None:
        if event["event"] == "asked":
            self._asked(event)
        elif event["event"] == "told":
            self._told(event)
        elif event["event"] == "waited" and self.diverged_at is None and not self._study.ask_for(None):
            self.diverged_at = self._study.proposed

    def _asked(self, event: Event) -> None:
        candidate = self._candidate(event)
        if self.diverged_at is not None:
            self._study.adopt(candidate)
        elif not self._study.ask_for(candidate):
            self.diverged_at = candidate.id

    def _candidate(self, event: Event) -> Candidate:
        structure = Structure(tuple(event["widths"]))
        candidate = self._study.candidate_from(
            event["id"], structure, level=event["level"], proposed_by=event["proposed_by"]
        )
        for resource, here in candidate.cost.known.items():
            there = event.get(resource, here)
            if there != here:
                raise RunError(f"Candidate {candidate.id} takes {there} {resource} there, {here} here.")
        if candidate.seed != event["seed"]:
            raise RunError(f"Candidate {candidate.id} has seed {event['seed']} there, {candidate.seed} here.")
        return candidate

    def _told(self, event: Event) -> None:
        pending = {candidate.id: candidate for candidate in self._study.pending}
        candidate = pending.get(event["id"])
        if candidate is None or candidate.fidelity.level != event["level"]:
            raise RunError(f"Candidate {event['id']} was told at rung {event['level']} but not asked there.")
        rung = self._study.tell(decode_told(event, candidate))
        if event["next"] != (None if rung is None else rung.level):
            raise RunError(f"Candidate {candidate.id} went on to rung {event['next']} there, but not here.")
