"""Progress of a search in a notebook: one figure below the cell that is drawn again as candidates come in.

IPython is not needed: a notebook has it loaded already, and nobody else gets here.
"""

from __future__ import annotations

import base64
import html
import sys
import time
from collections.abc import Callable
from typing import Any

from autoprune.core.candidate import Candidate, Evaluation, Outcome
from autoprune.core.resources import RESOURCES
from autoprune.core.standings import Standings
from autoprune.report import formats
from autoprune.report.observer import NullObserver, Observer
from autoprune.report.pictures.svg import Axes, Drawing, padded, percent

#: Shows an object that is redrawn: `IPython.display.display` with a display id.
Display = Callable[..., Any]


def default_observer() -> Observer:
    """Returns a figure that updates where the caller is a notebook, and nobody who watches elsewhere."""
    display = _notebook_display()
    return NullObserver() if display is None else NotebookProgress(display)


def _notebook_display() -> Display | None:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # A terminal's IPython would show the object as text, again and again.
    if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
        return None
    from importlib import import_module

    display: Display = import_module("IPython.display").display
    return display


class NotebookProgress:
    """An `Observer` for people in notebooks."""

    def __init__(self, display: Display, *, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Shows nothing before the first call.

        Args:
            display: `IPython.display.display`.
            seconds: between two drawings, at least.
            clock: seconds that only grow.
        """
        self._display = display
        self._seconds = seconds
        self._clock = clock
        self._handle: Any = None
        self._drawn = float("-inf")
        self._stage = ""
        self._warnings: list[str] = []
        self._finished: set[int] = set()
        self._failures = 0
        self._standings = Standings()
        self._metric = "accuracy"

    def stage(self, text: str) -> None:
        """Shows what the search does now."""
        self._stage = text
        self._draw(at_once=True)

    def progress(self, done: float, total: float) -> None:
        """Does nothing: the stage says what goes on."""

    def begins(self, *, metric: str, resource: str) -> None:
        """Starts with no candidate."""
        self._metric, self._standings = metric, Standings(resource)

    def asked(self, candidate: Candidate) -> None:
        """Does nothing: outcomes are drawn."""

    def told(self, outcome: Outcome, *, finished: bool) -> None:
        """Takes an outcome into the figure."""
        if isinstance(outcome, Evaluation):
            self._standings.tell(outcome)
        else:
            self._failures += 1
        if finished:
            self._finished.add(outcome.candidate.id)
        self._draw()

    def warning(self, text: str) -> None:
        """Shows a line that stays."""
        self._warnings.append(text)
        self._draw(at_once=True)

    def close(self) -> None:
        """Draws the last state."""
        self._draw(at_once=True)

    def _repr_html_(self) -> str:
        """Returns what a notebook shows."""
        lines = [self._stage, self._counts(), *(f"Warning: {text}" for text in self._warnings)]
        said = "<br>".join(html.escape(formats.one_line(line, limit=1000)) for line in lines if line)
        if not self._standings.peers:
            return f"<div>{said}</div>"
        # As an image: its style sheet reaches nothing else in the notebook.
        picture = live_figure(self._standings, metric=self._metric).file().encode()
        source = base64.b64encode(picture).decode()
        return f'<div>{said}<br><img alt="Front of the search" src="data:image/svg+xml;base64,{source}"></div>'

    def _counts(self) -> str:
        best = self._standings.best
        if best is None:
            return ""
        failed = f", {self._failures} failed" if self._failures else ""
        found = f"best {formats.accuracy(best.accuracy)} (hold-out, candidate {best.candidate.id})"
        return f"{len(self._finished)} candidates{failed}, {found}"

    def _draw(self, *, at_once: bool = False) -> None:
        now = self._clock()
        if not at_once and now - self._drawn < self._seconds:
            return
        self._drawn = now
        if self._handle is None:
            self._handle = self._display(self, display_id=True)
        else:
            self._handle.update(self)


def live_figure(standings: Standings, *, metric: str = "accuracy", width: int = 640) -> Drawing:
    """Returns the hold-out metric over cost of the candidates that compare, the front joined.

    Args:
        standings: of one candidate or more.
        metric: what people call the accuracy of the task.
        width: in pixels.
    """
    peers, front, resource = standings.peers, standings.front.evaluations, standings.resource
    noun = "MACs" if resource == "macs" else RESOURCES[resource].noun
    drawing = Drawing(width, 300, f"Hold-out {metric} over {noun} of the candidates so far")
    costs = [float(one.candidate.cost.of(resource)) for one in peers]
    accuracies = sorted(one.accuracy for one in peers)
    # Many poor candidates would press the good ones into a line at the top.
    floor = accuracies[len(accuracies) // 2] if len(accuracies) > 8 else accuracies[0]
    floor = min([floor, *(one.accuracy for one in front)])
    axes = Axes(
        drawing,
        (64, 30, width - 16, 252),
        padded(min(costs), max(costs), share=0.06, least=0.005 * max(costs)),
        padded(floor, accuracies[-1], share=0.1, least=0.002),
    )
    counted = resource in ("macs", "params")
    axes.grid(
        x_name=noun,
        y_name=f"hold-out {metric}",
        x_text=lambda value, _: formats.count(value) if counted else RESOURCES[resource].shown(value),
        y_text=percent,
        x_ticks=6,
    )
    axes.front([(one.candidate.cost.of(resource), one.accuracy) for one in front], "front")
    on_front = {one.candidate.id for one in front}
    for cost, one in zip(costs, peers, strict=True):
        if axes.holds(cost, one.accuracy):
            kind, radius = ("kept-bar", 5) if one.candidate.id in on_front else ("faint", 3.5)
            drawing.add("circle", class_=kind, cx=axes.x(cost), cy=axes.y(one.accuracy), r=radius)
    return drawing
