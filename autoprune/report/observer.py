"""Who watches a search: a terminal, a program that reads lines of JSON, or nobody."""

from __future__ import annotations

from typing import Protocol

from autoprune.core.candidate import Candidate, Outcome


class Observer(Protocol):
    """Hears of the search's stages and, as a `Tracker`, of its candidates. Called in the driver process only."""

    def stage(self, text: str) -> None:
        """A stage begins, told in one line."""
        ...

    def progress(self, done: float, total: float) -> None:
        """So much of the present stage is done, in any unit."""
        ...

    def begins(self, *, metric: str, resource: str) -> None:
        """A search begins: what people call its accuracy, and the resource that its front trades for it."""
        ...

    def asked(self, candidate: Candidate) -> None:
        """A candidate was proposed."""
        ...

    def told(self, outcome: Outcome, *, finished: bool) -> None:
        """A rung ended; `finished` when the candidate climbs no further."""
        ...

    def warning(self, text: str) -> None:
        """Something the user should know, in one line."""
        ...

    def close(self) -> None:
        """The search is over; may be called twice."""
        ...


class NullObserver:
    """Watches nothing."""

    def stage(self, text: str) -> None:
        """Does nothing."""

    def progress(self, done: float, total: float) -> None:
        """Does nothing."""

    def begins(self, *, metric: str, resource: str) -> None:
        """Does nothing."""

    def asked(self, candidate: Candidate) -> None:
        """Does nothing."""

    def told(self, outcome: Outcome, *, finished: bool) -> None:
        """Does nothing."""

    def warning(self, text: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
