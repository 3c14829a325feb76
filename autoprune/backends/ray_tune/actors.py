"""What runs on workers: evaluators, the board, and the light trials that Tune starts, reuses and drops."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.exceptions import GetTimeoutError, RayError

from autoprune.backends.evaluating import Timed, evaluate, one_line
from autoprune.backends.ray_tune.cluster import import_path
from autoprune.core.candidate import Candidate, Failure, Fidelity
from autoprune.core.seams import Evaluator, EvaluatorFactory
from autoprune.errors import BackendError

#: How often a candidate whose worker died is evaluated again before it counts as failed.
RETRIES = 3
#: What each evaluator leaves of its CPUs, for the trials, on a cluster that is otherwise full.
RESERVED_CPUS = 0.01


def root_cause(error: BaseException) -> str:
    """Returns the exception at the bottom of a chain as one line: Ray wraps what happens elsewhere."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


class Worker:
    """The body of an evaluator actor."""

    def __init__(self, board: str, namespace: str, name: str) -> None:
        self._name = name
        self._evaluator: Evaluator | None = None
        self._broken: str | None = None
        try:
            # Fetched rather than passed: Ray does not promise to restart an actor with large arguments.
            factory, arrays = ray.get(list(ray.get(ray.get_actor(board, namespace=namespace).shared.remote())))
            self._evaluator = factory.build(arrays, worker=name)
        except Exception as error:  # Kept as a value: an actor that dies while it is built says so in tracebacks only.
            self._broken = root_cause(error)

    def ready(self) -> str | None:
        """Returns None, or why there is no evaluator."""
        return self._broken

    def evaluate(self, candidate: Candidate) -> Timed:
        """Returns the timed outcome of one rung."""
        if self._evaluator is None:
            now = time.time()
            return Timed(Failure(candidate, f"{self._name} cannot start: {self._broken}", worker=self._name), now, now)
        return evaluate(self._evaluator, candidate, worker=self._name)


class Board:
    """What the driver lets workers know: the shared objects, and the rung that each climbing candidate is at."""

    def __init__(self) -> None:
        self._rungs: dict[int, Fidelity] = {}
        self._references: Sequence[Any] = ()
        self._given = asyncio.Event()

    async def share(self, references: Sequence[Any]) -> None:
        """Notes where the factory and its arrays are in the object store."""
        self._references = references
        self._given.set()

    async def shared(self) -> Sequence[Any]:
        """Returns references to the factory and its arrays, as soon as they are known."""
        await self._given.wait()
        return self._references

    async def post(self, candidate_id: int, rung: Fidelity) -> None:
        """Notes the rung that a candidate climbs to."""
        self._rungs[candidate_id] = rung

    async def read(self, candidate_id: int) -> Fidelity:
        """Returns the rung of a candidate."""
        return self._rungs[candidate_id]


class Pool:
    """The evaluators and the board of one search."""

    def __init__(
        self, factory: EvaluatorFactory, *, workers: int, cpus: int, gpus: float, start_timeout: float
    ) -> None:
        self._namespace = ray.get_runtime_context().namespace
        self._tag = f"autoprune-{uuid.uuid4().hex[:12]}"
        self._killed = False
        self._deadline = time.monotonic() + start_timeout
        self._start_timeout = start_timeout
        self.board = ray.remote(Board).options(name=f"{self._tag}-board", num_cpus=0).remote()
        # Held as long as the actors: a restarted one reads them again.
        self._shared = (ray.put(factory.without_arrays()), ray.put(dict(factory.arrays)))
        self.board.share.remote(self._shared)
        threads = {name: str(cpus) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        actor = ray.remote(Worker)
        self.evaluators = [
            actor.options(
                name=f"{self._tag}-{index}",
                num_cpus=cpus - RESERVED_CPUS,
                num_gpus=gpus,
                max_restarts=-1,
                max_task_retries=RETRIES,
                runtime_env={"env_vars": {**threads, **import_path()}},
            ).remote(f"{self._tag}-board", self._namespace, f"worker-{index}")
            for index in range(workers)
        ]
        self._starting = [evaluator.ready.remote() for evaluator in self.evaluators]

    def names(self, index: int) -> dict[str, str]:
        """Returns what a trial needs to find an evaluator and the board."""
        evaluator, board = f"{self._tag}-{index}", f"{self._tag}-board"
        return {"evaluator": evaluator, "board": board, "namespace": self._namespace, "worker": f"worker-{index}"}

    def check(self) -> None:
        """Looks, without waiting, whether the evaluators start as they should.

        Raises:
            BackendError: one cannot be built, or they do not start in time.
        """
        if not self._starting:
            return
        ready, self._starting = ray.wait(self._starting, num_returns=len(self._starting), timeout=0)
        try:
            for problem in ray.get(ready):
                if problem is not None:
                    raise BackendError(f"A worker cannot build its evaluator: {problem}.")
        except RayError as error:
            raise BackendError(
                f"A worker died while it was started ({type(error).__name__}). Memory may be short: lower --workers."
            ) from error
        if self._starting and time.monotonic() > self._deadline:
            raise BackendError(
                f"{len(self._starting)} of {len(self.evaluators)} workers did not start within "
                f"{self._start_timeout:g} s. Free resources or lower --workers."
            )

    def kill(self) -> None:
        """Ends all actors, whatever they are doing."""
        if self._killed:
            return
        self._killed = True
        for actor in [*self.evaluators, self.board]:
            with suppress(Exception):
                ray.kill(actor, no_restart=True)


class CandidateTrial(tune.Trainable):  # type: ignore[misc]
    """A Tune trial: one candidate, one result a rung, evaluated elsewhere."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begins with a candidate."""
        self._config = config
        self._begun = False
        self._evaluator = ray.get_actor(config["evaluator"], namespace=config["namespace"])
        self._board = ray.get_actor(config["board"], namespace=config["namespace"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins with another candidate in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Returns the timed outcome of one rung."""
        candidate: Candidate = self._config["candidate"]
        if self._begun:
            candidate = replace(candidate, fidelity=ray.get(self._board.read.remote(candidate.id)))
        self._begun = True
        return {"timed": self._evaluate(candidate, timeout=self._config["timeout"])}

    def _evaluate(self, candidate: Candidate, *, timeout: float | None) -> Timed:
        started = time.time()
        try:
            # The time limit is for the evaluation, not for a worker that is still starting.
            ray.get(self._evaluator.ready.remote())
            timed: Timed = ray.get(self._evaluator.evaluate.remote(candidate), timeout=timeout)
            return timed
        except GetTimeoutError:
            # Nothing else stops a computation that hangs. Ray restarts the evaluator.
            ray.kill(self._evaluator, no_restart=False)
            reason = f"took longer than {timeout:g} s"
        except RayError as error:
            reason = f"its worker died {RETRIES + 1} times ({type(error).__name__})"
        ended = time.time()
        worker = str(self._config["worker"])
        return Timed(Failure(candidate, reason, seconds=ended - started, worker=worker), started, ended)
