"""What every backend does around one evaluation: time it, and turn whatever breaks into a `Failure`."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.core.candidate import Candidate, Evaluation, Failure, Outcome
from autoprune.core.seams import BackendReport, Evaluator

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timed:
    """An outcome with its start and end, in seconds since the epoch: workers on other machines share no other clock.

    Attributes:
        outcome: of the evaluation.
        started: its start.
        ended: its end.
        overdue: whether nobody waited for it any longer.
    """

    outcome: Outcome
    started: float
    ended: float
    overdue: bool = False


def evaluate(evaluator: Evaluator, candidate: Candidate, *, worker: str) -> Timed:
    """Returns the outcome of one evaluation; an exception, or a result that is none, is a `Failure`."""
    # The end is counted from the start: the clock of the day may be set meanwhile.
    started, ticks = time.time(), time.perf_counter()
    why: BaseException | str | None
    try:
        outcome: object = evaluator.evaluate(candidate)
        why = None if isinstance(outcome, Evaluation | Failure) else f"the evaluator returned {outcome!r}"
    except (Exception, SystemExit) as error:  # the seam: a plugin or torch may raise anything; it costs one candidate
        _log.debug("Candidate %d failed.", candidate.id, exc_info=True)
        outcome, why = None, error
    ended = started + time.perf_counter() - ticks
    if isinstance(outcome, Evaluation | Failure) and outcome.candidate != candidate:
        why = f"the evaluator answered for candidate {outcome.candidate.id} at another rung or structure"
    if why is None and isinstance(outcome, Evaluation | Failure):
        return Timed(outcome, started, ended)
    return Timed(Failure.of(candidate, why or "", seconds=ended - started, worker=worker), started, ended)


@dataclass(frozen=True, slots=True)
class Span:
    """One evaluation on one worker; `started` and `ended` are seconds since the epoch."""

    worker: str
    started: float
    ended: float


def report_of(spans: Sequence[Span], *, workers: int, interrupted: bool) -> BackendReport:
    """Returns what a backend did.

    A worker counts from its first evaluation on: what it took to start is no idle time. One that never evaluated
    anything was idle all the time.
    """
    if not spans:
        return BackendReport(workers, seconds=0.0, busy_seconds=0.0, interrupted=interrupted)
    end = max(span.ended for span in spans)
    firsts: dict[str, float] = {}
    for span in spans:
        firsts[span.worker] = min(span.started, firsts.get(span.worker, span.started))
    seconds = max(0.0, end - min(firsts.values()))
    idle = max(0, workers - len(firsts)) * seconds
    return BackendReport(
        workers,
        seconds=seconds,
        busy_seconds=sum(span.ended - span.started for span in spans),
        interrupted=interrupted,
        capacity_seconds=idle + sum(max(0.0, end - first) for first in firsts.values()),
        evaluations=len(spans),
    )
