"""The evaluators of one search: started once, restarted by Ray when they die, replaced when their node does."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autoprune.backends.ray_tune import nodes
from autoprune.backends.ray_tune.actors import Board, Worker, root_cause
from autoprune.backends.ray_tune.cluster import import_path
from autoprune.core.seams import EvaluatorFactory
from autoprune.errors import BackendError

#: What each evaluator leaves of its CPUs, for the trials, on a cluster that is otherwise full.
_RESERVED_CPUS = 0.01
#: Seconds between two looks at the nodes.
_LOOK = 1.0
#: Seconds that the evaluators may take to start, or to find a place when the nodes of all have gone.
_START = 300.0


class Pool:
    """The evaluators and the board of one search."""

    def __init__(self, factory: EvaluatorFactory, *, workers: int, cpus: int, gpus: float) -> None:
        self.size = workers
        self._namespace = ray.get_runtime_context().namespace
        self._tag = f"autoprune-{uuid.uuid4().hex[:12]}"
        self._cpus, self._gpus = cpus, gpus
        self._killed = False
        self._deadline = time.monotonic() + _START
        # Beside the driver: what it holds is lost with its node, and without the driver there is no search anyway.
        beside = NodeAffinitySchedulingStrategy(nodes.here(), soft=False)
        options = {"name": f"{self._tag}-board", "num_cpus": 0, "scheduling_strategy": beside}
        self.board = ray.remote(Board).options(**options).remote()
        # Held as long as the actors: a restarted one reads them again.
        self._shared = (ray.put(factory.for_workers(gpu=gpus > 0)), ray.put(dict(factory.arrays)))
        self.board.share.remote(self._shared)
        self._versions = nodes.versions()
        self._lives = [0] * workers
        self._evaluators = [self._start(index) for index in range(workers)]
        #: {evaluator that has not started yet: its answer, once it has}.
        self._starting = {index: evaluator.ready.remote() for index, evaluator in enumerate(self._evaluators)}
        self._nodes = frozenset(nodes.living())
        self._looked = time.monotonic()
        #: {evaluator whose node went: its successor's answer, once that has found a place}.
        self._away: dict[int, Any] = {}
        self._retired: set[int] = set()

    def names(self, index: int) -> dict[str, str]:
        """Returns what a trial needs to find an evaluator and the board."""
        return {
            "evaluator": self._name(index),
            "board": f"{self._tag}-board",
            "namespace": self._namespace,
            "worker": f"worker-{index}",
        }

    def limit(self, level: int, seconds: float | None) -> None:
        """Lets evaluations of a rung, those under way too, take so many seconds."""
        self.board.limit.remote(level, seconds)

    def check(self) -> None:
        """Looks, without waiting, whether the evaluators start as they should.

        Raises:
            BackendError: one cannot be built, or they do not start in time.
        """
        if not self._starting:
            return
        ready, _ = ray.wait(list(self._starting.values()), num_returns=len(self._starting), timeout=0)
        for problem in _problems(ready):
            raise BackendError(f"A worker cannot build its evaluator: {problem}.")
        self._starting = {index: answer for index, answer in self._starting.items() if answer not in ready}
        if self._starting and time.monotonic() > self._deadline:
            raise BackendError(
                f"{len(self._starting)} of {self.size} workers did not start within "
                f"{_START:g} s. Free resources or lower --workers."
            )

    def lost(self) -> list[int]:
        """Returns the evaluators whose node has gone since the last look; each gets a successor wherever there is room.

        Ray would restart them itself, but where there is no room left it waits without a word, and so would the
        candidate.

        Raises:
            BackendError: all nodes of workers have gone, and nothing has come in their place for too long.
        """
        if time.monotonic() - self._looked < _LOOK:
            return []
        self._looked = time.monotonic()
        self._require_some()
        here, before = frozenset(nodes.living()), self._nodes
        self._nodes = here
        if before <= here:
            return []
        places = ray.get(self.board.places.remote())
        # One that has never said where it is may have been starting there.
        gone = [
            index for index in range(self.size) if index not in self._away and places.get(f"worker-{index}") not in here
        ]
        for index in gone:
            self._starting.pop(index, None)
            with suppress(Exception):
                ray.kill(self._evaluators[index], no_restart=True)
            self._retired.discard(index)
            self._lives[index] += 1
            self._evaluators[index] = self._start(index)
            self._away[index] = self._evaluators[index].ready.remote()
        if gone and self._none_works:
            self._deadline = time.monotonic() + _START
        return gone

    def back(self) -> list[int]:
        """Returns the evaluators whose successors have started since the last call, sound or not.

        Raises:
            BackendError: a successor died while it was started.
        """
        if not self._away:
            return []
        ready, _ = ray.wait(list(self._away.values()), num_returns=len(self._away), timeout=0)
        _problems(ready)
        found = [index for index, reference in self._away.items() if reference in ready]
        for index in found:
            del self._away[index]
        return found

    def retire(self, index: int, *, reason: str) -> None:
        """Ends an evaluator that cannot be built, until its node goes and it gets a successor.

        Raises:
            BackendError: it was the last.
        """
        self._retired.add(index)
        with suppress(Exception):
            ray.kill(self._evaluators[index], no_restart=True)
        if len(self._retired) == self.size:
            raise BackendError(
                f"No worker is left: none can build its evaluator again, the last one for this reason: {reason}. Mend "
                "that and resume the search."
            )
        if self._none_works:
            self._deadline = time.monotonic() + _START

    def kill(self) -> None:
        """Ends all actors, whatever they are doing."""
        if self._killed:
            return
        self._killed = True
        for actor in [*self._evaluators, self.board]:
            with suppress(Exception):
                ray.kill(actor, no_restart=True)

    def _name(self, index: int) -> str:
        return f"{self._tag}-{index}-{self._lives[index]}"

    def _start(self, index: int) -> Any:
        threads = {name: str(self._cpus) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        options = {
            "name": self._name(index),
            "num_cpus": self._cpus - _RESERVED_CPUS,
            "num_gpus": self._gpus,
            "max_restarts": -1,
            "max_task_retries": -1,  # of whether it is ready; an evaluation is repeated by the driver
            "runtime_env": {"env_vars": {**threads, **import_path()}},
        }
        actor = ray.remote(Worker).options(**options)
        return actor.remote(f"{self._tag}-board", self._namespace, f"worker-{index}", self._versions)

    @property
    def _none_works(self) -> bool:
        return len(self._away) + len(self._retired) == self.size

    def _require_some(self) -> None:
        if self._none_works and time.monotonic() > self._deadline:
            raise BackendError(
                "The nodes of all workers have gone, and there was no room elsewhere within "
                f"{_START:g} s. Start nodes and resume the search."
            )


def _problems(ready: list[Any]) -> list[str]:
    """Returns, a line each, why evaluators cannot be built, of those that have answered and cannot.

    Raises:
        BackendError: one died while it was started.
    """
    try:
        return [problem for problem in ray.get(ready) if problem is not None]
    except RayError as error:
        cause = root_cause(error)
        if "ModuleNotFoundError" in cause or "ModuleNotFoundError" in str(error):
            raise BackendError(
                "A worker cannot import autoprune or a module of the model. Install them on every node, or submit "
                "the search with `ray job submit --working-dir .`"
            ) from error
        raise BackendError(
            f"A worker died while it was started ({type(error).__name__}). Memory may be short: lower --workers."
        ) from error
