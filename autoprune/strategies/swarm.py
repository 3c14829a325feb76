"""Population methods of pymoo behind ask and tell: PSO, MOPSO with crowding distance, NSGA-II.

pymoo advances by whole generations: told in the order of completion, all later proposals would change, and a partial
generation raises. So a generation is proposed slot by slot and told at once, in slot order, when the last of it is
known. Two independent islands take turns: while one waits for its stragglers the other keeps the workers busy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.algorithms.moo.mopso_cd import MOPSO_CD
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.soo.nonconvex.pso import PSO
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.core.sampling import Sampling
from pymoo.core.termination import NoTermination
from pymoo.problems.static import StaticProblem

from autoprune.core.candidate import Evaluation
from autoprune.core.cost import FloatArray
from autoprune.core.profile import ModelProfile
from autoprune.core.seeds import derive_seed
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.strategies.base import ProposingStrategy
from autoprune.strategies.seeding import seed_structures

_ISLANDS = 2
#: Generations that propose nothing new before a neighbour of the best is proposed instead.
_IDLE_GENERATIONS = 5
_SMALLEST_RATIO = 0.02
#: Objective of a failure: worse than any merit (they are at least 0), finite because pymoo's PSO takes NaN for the
#: optimum and crowding distances of infinities are undefined.
_PENALTY = 1.0


class SwarmStrategy(ProposingStrategy):
    """One of pymoo's population methods, in two interleaved islands.

    The first populations are the heuristic structures and random ones. PSO maximises merit; the others also minimise
    the share of the dense cost.
    """

    def __init__(
        self, space: SearchSpace, *, name: str, seed: int, candidates: int, profile: ModelProfile | None = None
    ) -> None:
        super().__init__(space, name=name, seed=seed, candidates=candidates)
        size = int(np.clip(candidates // 12, 4, 20))
        seeds = seed_structures(space, profile)
        self._objectives = 1 if name == "pso" else 2
        self._islands = [
            _Island(
                _algorithm(name, self._population(seeds[index::_ISLANDS], size, index)),
                space=space,
                objectives=self._objectives,
                seed=derive_seed(seed, "island", index),
            )
            for index in range(_ISLANDS)
        ]
        self._turn = 0

    def _population(self, seeds: list[Structure], size: int, index: int) -> FloatArray:
        sampled = self.space.sample(size, self._rng("population", index))
        chosen = [*seeds[: size - 1], *sampled][:size]
        return np.stack([self.space.encode(structure) for structure in chosen])

    def _next(self, candidate_id: int) -> Structure | None:
        for _ in range(_IDLE_GENERATIONS):
            waiting = 0
            for _ in self._islands:
                island = self._islands[self._turn]
                self._turn = (self._turn + 1) % _ISLANDS
                structure = island.take(lambda one: self._is_new(one))
                if structure is not None:
                    return structure
                if all(one in self.outcomes for one in island.structures):
                    island.advance([self._objective(one) for one in island.structures])
                else:
                    waiting += 1
            if waiting == _ISLANDS:
                return None
        rng = self._rng("idle", candidate_id)
        return self._fresh(self._best(), rng)

    def _best(self) -> Structure:
        evaluations = self.evaluations
        if not evaluations:
            return self.space.uniform()
        return max(evaluations, key=lambda evaluation: evaluation.merit).candidate.structure

    def _objective(self, structure: Structure) -> list[float]:
        outcome = self.outcomes[structure]
        merit = -outcome.merit if isinstance(outcome, Evaluation) else _PENALTY
        return [merit, self.space.share(outcome.candidate.cost)][: self._objectives]


class _Island:
    """One pymoo algorithm with its current generation."""

    def __init__(self, algorithm: Any, *, space: SearchSpace, objectives: int, seed: int) -> None:
        self._space = space
        self._problem = Problem(n_var=space.dimension, n_obj=objectives, xl=_SMALLEST_RATIO, xu=1.0)
        self._algorithm = algorithm
        self._algorithm.setup(self._problem, termination=NoTermination(), seed=seed, verbose=False)
        self._draw()

    def take(self, is_new: Any) -> Structure | None:
        """Returns the next structure of the generation that nobody proposed, or None."""
        while self._left:
            structure = self._left.pop(0)
            if is_new(structure):
                found: Structure = structure
                return found
        return None

    def advance(self, objectives: list[list[float]]) -> None:
        """Tells the whole generation, in slot order, and draws the next one."""
        Evaluator().eval(StaticProblem(self._problem, F=np.asarray(objectives)), self._population)
        self._algorithm.tell(infills=self._population)
        self._draw()

    def _draw(self) -> None:
        self._population = self._algorithm.ask()
        self.structures = self._space.decode(self._population.get("X")) if self._population is not None else []
        self._left = list(self.structures)


class _Given(Sampling):  # type: ignore[misc]  # pymoo ships no types
    """Samples that are already there; MOPSO_CD takes no plain array."""

    def __init__(self, points: FloatArray) -> None:
        super().__init__()
        self._points = points

    def _do(self, problem: Any, n_samples: int, *args: Any, **kwargs: Any) -> FloatArray:  # noqa: ARG002 - pymoo's
        return self._points[:n_samples]


def _algorithm(name: str, points: FloatArray) -> Any:
    size, population = len(points), _Given(points)
    if name == "pso":
        # Constants of Clerc and Kennedy's constriction (2002), as ACP's code: chi 0.729 on w = 1, c1 = c2 = 2.05.
        return PSO(pop_size=size, sampling=population, w=0.729, c1=1.494, c2=1.494, adaptive=True)
    if name == "mopso":
        return MOPSO_CD(pop_size=size, sampling=population)
    return NSGA2(pop_size=size, sampling=population, eliminate_duplicates=False)
