"""Who watches a search: a terminal, a program that reads lines of JSON, or nobody."""

from __future__ import annotations

import json
from typing import Protocol, TextIO

from autoprune.core.candidate import Candidate, Evaluation, Outcome


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


class JsonLinesObserver:
    """Writes one JSON object a line, for programs; give it standard error where standard output holds the result."""

    def __init__(self, stream: TextIO) -> None:
        """Writes to `stream`, which stays open."""
        self._stream = stream

    def stage(self, text: str) -> None:
        """Writes `{"event": "stage", "text": ...}`."""
        self._write(event="stage", text=text)

    def progress(self, done: float, total: float) -> None:
        """Writes `{"event": "progress", "done": ..., "total": ...}`."""
        self._write(event="progress", done=done, total=total)

    def begins(self, *, metric: str, resource: str) -> None:
        """Writes `{"event": "search", "metric": ..., "resource": ...}`."""
        self._write(event="search", metric=metric, resource=resource)

    def asked(self, candidate: Candidate) -> None:
        """Writes nothing: programs care for outcomes."""

    def told(self, outcome: Outcome, *, finished: bool) -> None:
        """Writes `{"event": "evaluation" or "failure", "id": ..., ...}`."""
        candidate = outcome.candidate
        common = {"id": candidate.id, "fidelity": candidate.fidelity.name, "finished": finished}
        if isinstance(outcome, Evaluation):
            self._write(event="evaluation", **common, accuracy=outcome.accuracy, score=outcome.score)
        else:
            self._write(event="failure", **common, reason=outcome.reason)

    def warning(self, text: str) -> None:
        """Writes `{"event": "warning", "text": ...}`."""
        self._write(event="warning", text=text)

    def close(self) -> None:
        """Does nothing: the stream is the caller's."""

    def _write(self, **values: object) -> None:
        self._stream.write(json.dumps(values) + "\n")
        self._stream.flush()
