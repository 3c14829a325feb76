"""A search in simulated time: several workers, a ladder, successive halving, no process and no clock.

`simulate` is smaller than the real study and independent of it, so that a strategy can be tried in milliseconds;
`drive` runs the real one.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, replace

from autoprune.core.candidate import Candidate, Evaluation
from autoprune.core.seams import Strategy
from autoprune.core.seeds import derive_seed, generator
from autoprune.study.study import Study
from autoprune.testing.landscape import Landscape


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a simulated search found.

    Attributes:
        evaluations: the last word on every candidate, in the order of telling.
        incumbent: the best by merit among those within budget; None when there is none.
        accuracy: its accuracy without noise; 0 without an incumbent.
        idle: times a free worker found nothing to do.
    """

    evaluations: tuple[Evaluation, ...]
    incumbent: Evaluation | None
    accuracy: float
    idle: int


def simulate(
    strategy: Strategy, landscape: Landscape, *, candidates: int, workers: int = 2, seed: int = 0
) -> Simulation:
    """Runs a strategy on a landscape until it has proposed `candidates` structures or nothing more.

    Candidates climb asynchronously: after a rung, one that is among the best `1 / keep` of that rung so far climbs.
    """
    clock = _Clock(landscape, seed=seed)
    told: list[Evaluation] = []
    proposed, idle = 0, 0
    while True:
        while clock.running < workers and proposed < candidates:
            structure = strategy.ask(proposed)
            if structure is None:
                idle += 1
                break
            clock.start(
                Candidate(
                    id=proposed,
                    structure=structure,
                    cost=landscape.space.cost(structure),
                    fidelity=landscape.ladder.rungs[0],
                    seed=derive_seed(seed, proposed),
                    proposed_by=strategy.name,
                )
            )
            proposed += 1
        if not clock.running:
            break
        finished = clock.advance()
        if finished is not None:
            told.append(finished)
            strategy.tell(finished)
    legal = [one for one in told if landscape.space.is_legal(one.candidate.structure)]
    incumbent = max(legal, key=lambda one: (one.merit, -one.candidate.id), default=None)
    accuracy = landscape.accuracy(incumbent.candidate.structure) if incumbent else 0.0
    return Simulation(tuple(told), incumbent, accuracy, idle)


def drive(study: Study, landscape: Landscape, *, workers: int, seed: int = 0) -> float:
    """Runs a study to its end in simulated time, its workers' evaluations each of a random length.

    Returns:
        The seconds of real time spent in the study: asking and telling, with its strategy and its trackers.
    """
    running: list[tuple[float, int, Candidate]] = []
    now = spent = 0.0

    def start(candidate: Candidate) -> None:
        level = candidate.fidelity.level
        seconds = (1.0 + 2.0 * level) * generator(seed, "time", candidate.id, level).uniform(0.2, 1.8)
        heapq.heappush(running, (now + float(seconds), candidate.id, candidate))

    while True:
        while len(running) < workers:
            began = time.perf_counter()
            candidate = study.ask()
            spent += time.perf_counter() - began
            if candidate is None:
                break
            start(candidate)
        if not running:
            return spent
        now, _, candidate = heapq.heappop(running)
        evaluation = landscape.evaluate(candidate)
        began = time.perf_counter()
        rung = study.tell(evaluation)
        spent += time.perf_counter() - began
        if rung is not None:
            start(replace(candidate, fidelity=rung))


class _Clock:
    """Evaluations in flight, by the simulated time at which they end."""

    def __init__(self, landscape: Landscape, *, seed: int) -> None:
        self._landscape = landscape
        self._seed = seed
        self._now = 0.0
        self._heap: list[tuple[float, int, Candidate]] = []
        self._rungs: list[list[float]] = [[] for _ in landscape.ladder.rungs]

    @property
    def running(self) -> int:
        """Evaluations in flight."""
        return len(self._heap)

    def start(self, candidate: Candidate) -> None:
        """Starts an evaluation now."""
        level = candidate.fidelity.level
        seconds = (1.0 + 2.0 * level) * generator(self._seed, "time", candidate.id, level).uniform(0.7, 1.3)
        heapq.heappush(self._heap, (self._now + float(seconds), candidate.id, candidate))

    def advance(self) -> Evaluation | None:
        """Ends the next evaluation; returns it unless its candidate climbs on."""
        self._now, _, candidate = heapq.heappop(self._heap)
        evaluation = self._landscape.evaluate(candidate)
        level = candidate.fidelity.level
        ladder, scores = self._landscape.ladder, self._rungs[level]
        scores.append(evaluation.score)
        place = sum(score > evaluation.score for score in scores)
        if level == ladder.top.level or place >= max(1.0, len(scores) / ladder.keep):
            return evaluation
        self.start(
            Candidate(
                id=candidate.id,
                structure=candidate.structure,
                cost=candidate.cost,
                fidelity=ladder.rungs[level + 1],
                seed=candidate.seed,
                proposed_by=candidate.proposed_by,
            )
        )
        return None
