"""Progress of a running search: a display that redraws itself in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoprune.core.candidate import Candidate, Evaluation, Outcome
from autoprune.core.standings import Standings
from autoprune.report import formats
from autoprune.report.screens.plot import Point, front_plot

_BAR = 64
#: Lines of the plot of the front, and of a terminal that has room for it.
_PLOT, _ROOM = 8, 20


class LiveProgress:
    """An `Observer` for people. Use it as a context manager, so that the terminal is restored whatever happens."""

    def __init__(
        self,
        *,
        candidates: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        line_seconds: float = 10.0,
        time_limit: float | None = None,
    ) -> None:
        """Shows nothing before the first call.

        Args:
            candidates: how many the search will evaluate.
            console: where to; standard error by default, so that standard output can be read by a program.
            clock: seconds that only grow.
            line_seconds: between two plain lines, at least.
            time_limit: seconds that the search may take, from the first candidate on.
        """
        self._console = console or Console(stderr=True)
        self._candidates = candidates
        self._clock = clock
        self._line_seconds = line_seconds
        self._time_limit = time_limit
        self._standings = Standings()
        self._best: Evaluation | None = None
        self._front_size = 0
        self._points: tuple[Point, ...] = ()
        self._stage = ""
        self._stage_progress: tuple[float, float] | None = None
        self._opened = clock()
        self._searching_since: float | None = None
        self._taken_over = 0
        self._finished = 0
        self._ended: set[int] = set()
        self._failures = 0
        self._last_line = float("-inf")
        self._last_text = ""
        self._live: Live | None = None
        self._closed = False

    def __enter__(self) -> LiveProgress:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the display."""
        self.close()

    def stage(self, text: str) -> None:
        """Shows what the search does now."""
        self._stage = formats.one_line(text)
        self._stage_progress = None
        if self._console.is_terminal:
            self._redraw()
        else:
            self._print(self._stage)

    def progress(self, done: float, total: float) -> None:
        """Shows how much of the present stage is done."""
        self._stage_progress = (done, total) if total > 0 else None
        self._update()

    def begins(self, *, metric: str, resource: str) -> None:  # noqa: ARG002 - the figures name no metric
        """Starts with no candidate."""
        self._standings = Standings(resource)

    def asked(self, candidate: Candidate) -> None:  # noqa: ARG002 - the seam's signature
        """Starts the clock of the search with its first candidate."""
        if self._searching_since is None:
            self._searching_since = self._clock()
            # A resumed search is not that fast: what was finished before must not count into the time left.
            self._taken_over = self._finished
        self._update()

    def told(self, outcome: Outcome, *, finished: bool) -> None:
        """Takes an outcome into the figures."""
        if isinstance(outcome, Evaluation):
            self._standings.tell(outcome)
            # Settled here, because the redrawing thread must not walk over standings that change.
            self._best, self._front_size = self._standings.best, len(self._standings.front)
            self._points = _points(self._standings) if self._console.is_terminal else ()
        else:
            self._failures += 1
        if finished:
            # A candidate that is promoted late ends twice.
            self._ended.add(outcome.candidate.id)
            self._finished = len(self._ended)
        self._update()

    def warning(self, text: str) -> None:
        """Prints a line that stays."""
        line = Text("warning: ", style="yellow") + Text(formats.one_line(text, limit=1000))
        self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Ends the display; its last picture stays in a terminal."""
        if self._closed:
            return
        self._closed = True
        if self._live is not None:
            self._live.update(self.render(), refresh=True)
            self._live.stop()
        elif self._finished and self._counts() != self._last_text:
            self._print(self._counts())

    def render(self) -> RenderableType:
        """Returns the present picture: the stage, a bar, the figures and, where there is room, the front."""
        if self._searching_since is None:
            return Group(self._stage_line(), *([self._bar()] if self._stage_progress else []))
        figures = Table.grid(padding=(0, 3))
        names = ("candidates", "best so far", "front", "failures", "elapsed", "time left")
        for name in names:
            figures.add_column(name, no_wrap=True)
        figures.add_row(*(Text(name, style="dim") for name in names))
        figures.add_row(*self._figures())
        return Group(self._stage_line(), self._bar(), figures, *self._plot())

    def _plot(self) -> list[Text]:
        size = self._console.size
        if size.height < _ROOM or size.width < _BAR:
            return []
        return front_plot(self._points, resource=self._standings.resource, width=_BAR, height=_PLOT)

    def _figures(self) -> tuple[Text, ...]:
        best = self._best
        return (
            Text(f"{self._finished}/{self._candidates}"),
            Text(f"{formats.accuracy(best.accuracy)} #{best.candidate.id}" if best else "-", style="bold green"),
            Text(str(self._front_size)),
            Text(str(self._failures), style="red" if self._failures else ""),
            Text(formats.duration(self._clock() - self._opened)),
            Text(self._left()),
        )

    def _counts(self) -> str:
        best, left = self._best, self._left()
        found = "no result yet"
        if best is not None:
            found = f"best {formats.accuracy(best.accuracy)} (hold-out, candidate {best.candidate.id})"
        parts = [
            f"{self._finished}/{self._candidates} candidates",
            found,
            f"front {self._front_size}",
            f"failures {self._failures}",
            f"elapsed {formats.duration(self._clock() - self._opened)}",
            f"left about {left}" if left != "-" else "",
        ]
        return ", ".join(part for part in parts if part)

    def _left(self) -> str:
        """Returns the time left as text, `-` while nothing can be said."""
        fresh = self._finished - self._taken_over
        if self._searching_since is None or self._finished >= self._candidates:
            return "-"
        spent = self._clock() - self._searching_since
        left = [spent / fresh * (self._candidates - self._finished)] if fresh > 0 else []
        if self._time_limit is not None:
            left.append(max(0.0, self._time_limit - spent))
        return formats.duration(min(left)) if left else "-"

    def _stage_line(self) -> Text:
        text = Text(self._stage, no_wrap=True, overflow="ellipsis")
        if self._stage_progress is not None:
            done, total = self._stage_progress
            text.append(f"  {100 * min(1.0, done / total):.0f} %", style="dim")
        return text

    def _bar(self) -> Text:
        done, total = self._stage_progress or (self._finished, max(1, self._candidates))
        full = round(_BAR * min(1.0, done / total))
        return Text("━" * full, style="green").append("━" * (_BAR - full), style="grey30")

    def _update(self) -> None:
        if self._console.is_terminal:
            self._redraw()
            return
        now = self._clock()
        if now - self._last_line < self._line_seconds:
            return
        if self._stage_progress is not None:
            done, total = self._stage_progress
            self._print(f"{self._stage}: {100 * min(1.0, done / total):.0f} %")
        elif self._finished:
            self._print(self._counts())

    def _redraw(self) -> None:
        if self._closed:
            return
        if self._live is None:
            # Redrawn by its own thread, so that the clock runs on while the driver waits for workers.
            self._live = Live(
                get_renderable=self.render, console=self._console, refresh_per_second=4, redirect_stdout=False
            )
            self._live.start()

    def _print(self, line: str) -> None:
        self._last_line, self._last_text = self._clock(), line
        self._console.print(Text(line), soft_wrap=True)


def _points(standings: Standings) -> tuple[Point, ...]:
    """Returns the candidates on the highest rung reached: accuracies of others do not compare."""
    best, front = standings.best, {one.candidate.id for one in standings.front}

    def point(one: Evaluation) -> Point:
        number = one.candidate.id
        drawn = 2 if best is not None and number == best.candidate.id else int(number in front)
        return Point(one.candidate.cost.of(standings.resource), one.accuracy, drawn)

    return tuple(point(one) for one in standings.peers)
