"""A search in simulated time: the real study, any number of workers, no process and no clock."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from autoprune.core.candidate import Candidate, Evaluation, Failure, Outcome
from autoprune.core.seams import Strategy
from autoprune.core.seeds import generator
from autoprune.core.structure import Structure
from autoprune.study.study import Study
from autoprune.testing.landscape import Landscape

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Crew:
    """The workers of a simulated search.

    Attributes:
        workers: evaluations at a time.
        pace: how many times as long as on the landscape evaluations take.
        spread: largest relative deviation of an evaluation's time from the landscape's, evenly distributed, in [0, 1].
        tail: index of a Pareto distribution that times are drawn from instead; infinite for none. At 2 or less the
            variance is infinite: of a thousand evaluations one takes 30 times the median.
        failures: share of evaluations that fail, after the time they would have taken.
        slow_driver: whether workers wait for the driver: its own processor time passes in simulated time, too. Then two
            runs differ as the machine does.
    """

    workers: int = 2
    pace: float = 1.0
    spread: float = 0.3
    tail: float = math.inf
    failures: float = 0.0
    slow_driver: bool = False

    def seconds(self, expected: float, seed: int, candidate: Candidate) -> float:
        """Returns how long an evaluation takes that is expected to take so long on the landscape."""
        expected *= self.pace
        share = float(generator(seed, "time", candidate.id, candidate.fidelity.level).random())
        if math.isinf(self.tail):
            return expected * (1 + self.spread * (2 * share - 1))
        # A Pareto variable of mean 1.
        return expected * (1 - 1 / self.tail) * float((1 - share) ** (-1 / self.tail))

    def fails(self, seed: int, candidate: Candidate) -> bool:
        """Returns whether an evaluation fails."""
        return bool(generator(seed, "failure", candidate.id, candidate.fidelity.level).random() < self.failures)


@dataclass(frozen=True, slots=True)
class Step:
    """A new incumbent.

    Attributes:
        seconds: simulated time since the start.
        candidates: that had their last word by then.
        accuracy: of the incumbent, without noise.
    """

    seconds: float
    candidates: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a simulated search found, and what it took.

    Attributes:
        evaluations: the last word on every candidate that did not fail, in the order of telling.
        incumbent: of the study; None when there is none.
        accuracy: its accuracy without noise; 0 without an incumbent.
        steps: every incumbent, the first one first.
        idle: times a free worker found nothing to do before all candidates were proposed.
        seconds: simulated time until the last evaluation ended.
        busy_seconds: simulated time spent evaluating, summed over the workers.
        driver_seconds: processor time really spent in the study: asking and telling, its strategy and trackers.
        utilisation: share of the workers' time spent evaluating, in [0, 1], until the last new candidate was handed
            out: what stragglers and late promotions leave idle after that says nothing of the driver.
    """

    evaluations: tuple[Evaluation, ...]
    incumbent: Evaluation | None
    accuracy: float
    steps: tuple[Step, ...]
    idle: int
    seconds: float
    busy_seconds: float
    driver_seconds: float
    utilisation: float

    def seconds_to(self, accuracy: float) -> float | None:
        """Returns the simulated time at which an incumbent was first this accurate; None if none was."""
        return next((step.seconds for step in self.steps if step.accuracy >= accuracy), None)


def simulate(
    strategy: Strategy,
    landscape: Landscape,
    *,
    candidates: int,
    workers: int = 2,
    seed: int = 0,
    crew: Crew | None = None,
) -> Simulation:
    """Runs a strategy on a landscape until it has proposed `candidates` structures or nothing more.

    Args:
        strategy: proposes.
        landscape: scores.
        candidates: how many structures are asked in all.
        workers: evaluations at a time.
        seed: of the study and of the workers' times.
        crew: the workers in more detail, instead of `workers`.
    """
    study = Study(landscape.space, strategy, landscape.ladder, candidates=candidates, seed=seed)
    return drive(study, landscape, crew=crew or Crew(workers), seed=seed)


def drive(study: Study, landscape: Landscape, *, crew: Crew, seed: int = 0) -> Simulation:
    """Runs a study to its end in simulated time."""
    return _Run(study, landscape, crew, seed).to_the_end()


class _Run:
    """Evaluations in flight, by the simulated time at which they end."""

    def __init__(self, study: Study, landscape: Landscape, crew: Crew, seed: int) -> None:
        self._study, self._landscape, self._crew, self._seed = study, landscape, crew, seed
        self._running: list[tuple[float, int, Outcome]] = []
        self._now = self._handed_out = self._driver = 0.0
        self._spans: list[tuple[float, float]] = []
        self._idle = 0
        self._told: list[Evaluation] = []
        self._steps: list[Step] = []

    def to_the_end(self) -> Simulation:
        """Returns what was found when nothing runs any more."""
        while True:
            while len(self._running) < self._crew.workers:
                candidate = self._driven(self._study.ask)
                if candidate is None:
                    self._idle += self._study.proposed < self._study.candidates
                    break
                if candidate.fidelity.level == 0:
                    self._handed_out = self._now
                self._start(candidate)
            if not self._running:
                break
            self._finish()
        return Simulation(
            evaluations=tuple(self._told),
            incumbent=self._study.incumbent,
            accuracy=self._steps[-1].accuracy if self._steps else 0.0,
            steps=tuple(self._steps),
            idle=self._idle,
            seconds=self._now,
            busy_seconds=sum(end - start for start, end in self._spans),
            driver_seconds=self._driver,
            utilisation=self._utilisation(),
        )

    def _utilisation(self) -> float:
        until = self._handed_out or self._now
        busy = sum(min(end, until) - min(start, until) for start, end in self._spans)
        return busy / (self._crew.workers * until) if until > 0 else 0.0

    def _start(self, candidate: Candidate) -> None:
        evaluation = self._landscape.evaluate(candidate)
        seconds = self._crew.seconds(evaluation.seconds, self._seed, candidate)
        failed = self._crew.fails(self._seed, candidate)
        outcome = Failure(candidate, "simulated", seconds) if failed else replace(evaluation, seconds=seconds)
        self._spans.append((self._now, self._now + seconds))
        heapq.heappush(self._running, (self._now + seconds, candidate.id, outcome))

    def _finish(self) -> None:
        ended, _, outcome = heapq.heappop(self._running)
        # With a slow driver the end may have come while it was busy with another.
        self._now = max(self._now, ended)
        before = self._study.incumbent
        rung = self._driven(lambda: self._study.tell(outcome))
        if self._study.incumbent is not before:
            self._step(outcome.candidate.structure)
        if rung is not None:
            self._start(replace(outcome.candidate, fidelity=rung))
        elif isinstance(outcome, Evaluation):
            self._told.append(outcome)

    def _step(self, structure: Structure) -> None:
        """Books a new incumbent."""
        self._steps.append(Step(self._now, self._study.finished, self._landscape.accuracy(structure)))

    def _driven(self, call: Callable[[], _Answer]) -> _Answer:
        """Returns what the study answers, its time booked."""
        began = time.process_time()
        answer = call()
        spent = time.process_time() - began
        self._driver += spent
        if self._crew.slow_driver:
            self._now += spent
        return answer
