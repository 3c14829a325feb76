"""What every backend does around one evaluation: time it, and turn whatever breaks into a `Failure`."""

from __future__ import annotations

import time
from dataclasses import dataclass

from autoprune.core.candidate import Candidate, Evaluation, Failure, Outcome
from autoprune.core.seams import Evaluator

_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Timed:
    """An outcome with its start and end, in seconds since the epoch: workers on other machines share no other clock."""

    outcome: Outcome
    started: float
    ended: float


def evaluate(evaluator: Evaluator, candidate: Candidate, *, worker: str) -> Timed:
    """Returns the outcome of one evaluation; an exception, or a result that is none, is a `Failure`."""
    started = time.time()
    try:
        outcome: object = evaluator.evaluate(candidate)
        reason = None if isinstance(outcome, Evaluation | Failure) else f"the evaluator returned {outcome!r}"
    except (Exception, SystemExit) as error:  # the seam: a plugin or torch may raise anything; it costs one candidate
        outcome, reason = None, one_line(error)
    ended = time.time()
    if isinstance(outcome, Evaluation | Failure) and outcome.candidate != candidate:
        reason = f"the evaluator answered for candidate {outcome.candidate.id} at another rung or structure"
    if reason is None and isinstance(outcome, Evaluation | Failure):
        return Timed(outcome, started, ended)
    failure = Failure(candidate, str(reason)[:_LONGEST_REASON], seconds=ended - started, worker=worker)
    return Timed(failure, started, ended)


def one_line(error: BaseException) -> str:
    """Returns an exception as one line: its type and the first line of its message."""
    first = str(error).strip().partition("\n")[0].strip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def busy_span(timings: list[tuple[float, float]]) -> tuple[float, float]:
    """Returns (seconds from the first start to the last end, seconds summed) of (start, end) pairs."""
    if not timings:
        return 0.0, 0.0
    span = max(end for _, end in timings) - min(start for start, _ in timings)
    return max(0.0, span), sum(end - start for start, end in timings)
