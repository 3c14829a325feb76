"""The four seams of a search: who proposes, who evaluates, who runs, who keeps track.

Strategies see numbers, never networks; evaluators never see an optimiser; only backends know processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from autoprune.core.candidate import Candidate, Fidelity, Outcome
from autoprune.core.structure import Structure


class Strategy(Protocol):
    """Proposes structures. Deterministic: the same seed and the same asks and tells give the same proposals."""

    name: str

    def ask(self, candidate_id: int) -> Structure | None:
        """Returns the next proposal, or None when there is none before the next tell.

        None while no proposal is pending means that the strategy has nothing left to propose.
        """
        ...

    def tell(self, outcome: Outcome) -> None:
        """Takes the last word on a candidate that this strategy proposed, in whatever order workers finish."""
        ...


class Evaluator(Protocol):
    """Scores candidates. Lives on a worker and may hold a network and images."""

    def evaluate(self, candidate: Candidate) -> Outcome:
        """Returns the evaluation at the candidate's fidelity, or a `Failure`; backends make one of what it raises."""
        ...


class EvaluatorFactory(Protocol):
    """Builds an evaluator on a worker. Light and picklable once it is made for workers: backends share arrays once."""

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Everything big, by name."""
        ...

    def build(self, arrays: Mapping[str, npt.NDArray[Any]], *, worker: str) -> Evaluator:
        """Returns an evaluator; `arrays` are read-only and perhaps shared with other workers."""
        ...

    def for_workers(self, *, gpu: bool) -> EvaluatorFactory:
        """Returns a copy without arrays to send to workers that have a GPU, or a share of one, each; or none."""
        ...


class PassiveStudy(Protocol):
    """What a backend drives: no clock, no thread, no process of its own."""

    def ask(self) -> Candidate | None:
        """Returns the next candidate to evaluate, or None: nothing before the next tell, or nothing at all."""
        ...

    def tell(self, outcome: Outcome) -> Fidelity | None:
        """Records an outcome; returns the rung the candidate climbs to next, or None when it is finished."""
        ...

    @property
    def done(self) -> bool:
        """Whether every candidate has been proposed and told."""
        ...


@dataclass(frozen=True, slots=True)
class BackendReport:
    """What a backend did.

    Attributes:
        workers: evaluators that ran at a time.
        seconds: wall time from the first evaluation's start to the last one's end.
        busy_seconds: evaluation time summed over workers.
        interrupted: whether it stopped before the study was done (a time limit or Ctrl-C).
        capacity_seconds: time that workers were there, each from its first evaluation's start, summed over workers;
            None for `workers` times `seconds`.
        evaluations: how many there were, every rung of a candidate counted.
    """

    workers: int
    seconds: float
    busy_seconds: float
    interrupted: bool
    capacity_seconds: float | None = None
    evaluations: int = 0

    @property
    def utilisation(self) -> float:
        """Share of worker time spent evaluating, in [0, 1]."""
        return min(1.0, self.busy_seconds / self._capacity) if self._capacity > 0 else 0.0

    @property
    def overhead(self) -> float:
        """Seconds that a worker waits before an evaluation, on average."""
        return max(0.0, self._capacity - self.busy_seconds) / self.evaluations if self.evaluations else 0.0

    @property
    def _capacity(self) -> float:
        return self.workers * self.seconds if self.capacity_seconds is None else self.capacity_seconds


class Backend(Protocol):
    """Carries candidates from a study to evaluators and outcomes back."""

    def run(self, study: PassiveStudy, factory: EvaluatorFactory, *, should_stop: Callable[[], bool]) -> BackendReport:
        """Drives the study until it is done or `should_stop()` (asked between evaluations)."""
        ...


class Tracker(Protocol):
    """Hears of everything, in the driver process only, in the order in which it happened."""

    def asked(self, candidate: Candidate) -> None:
        """A candidate was proposed."""
        ...

    def told(self, outcome: Outcome, *, finished: bool) -> None:
        """A rung ended; `finished` when the candidate climbs no further."""
        ...


def frozen_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Returns the same arrays marked read-only, as an object store hands them out."""
    views = {name: np.asarray(array).view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views
