"""What runs on workers: evaluators, the board, and the light trials that Tune starts, reuses and drops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune
from ray.exceptions import GetTimeoutError, RayError

from autoprune.backends.evaluating import Timed, evaluate
from autoprune.backends.ray_tune import nodes
from autoprune.core.candidate import Candidate, Failure, Fidelity
from autoprune.core.seams import Evaluator
from autoprune.errors import one_line

#: How often a candidate whose worker died is evaluated again before it counts as failed.
RETRIES = 3


def root_cause(error: BaseException) -> str:
    """Returns the exception at the bottom of a chain as one line: Ray wraps what happens elsewhere."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


@dataclass(frozen=True, slots=True)
class Broken:
    """The answer of a worker that could not build its evaluator: says nothing about the candidate.

    Attributes:
        reason: what went wrong, in one line.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class _Overdue:
    """No answer within so many seconds."""

    limit: float


class Worker:
    """The body of an evaluator actor."""

    def __init__(self, board: str, namespace: str, name: str, versions: Mapping[str, str]) -> None:
        self._board, self._namespace, self._name, self._versions = board, namespace, name, versions
        self._evaluator: Evaluator | None = None
        self._said = False
        self._broken = self._build()

    def ready(self) -> str | None:
        """Returns None, or why there is no evaluator; once that was said, every call tries to build it again.

        What is in the way may go: a process that was killed holds its memory of a GPU for a while.
        """
        if self._broken is not None and self._said:
            self._broken = self._build()
        self._said = True
        return self._broken

    def evaluate(self, candidate: Candidate) -> Timed | Broken:
        """Returns the timed outcome of one rung."""
        if self._evaluator is None:
            return Broken(self._broken or "")
        return evaluate(self._evaluator, candidate, worker=self._name)

    def _build(self) -> str | None:
        """Builds the evaluator; returns None, or why it cannot be built."""
        other = nodes.difference(self._versions, nodes.versions(), where=nodes.address())
        if other is not None:
            return other
        try:
            # Fetched rather than passed: Ray does not promise to restart an actor with large arguments.
            board = ray.get_actor(self._board, namespace=self._namespace)
            factory, arrays = ray.get(list(ray.get(board.shared.remote(self._name, nodes.here()))))
            self._evaluator = factory.build(arrays, worker=self._name)
        except Exception as error:  # Kept as a value: an actor that dies while it is built says so in tracebacks only.
            return root_cause(error)
        return None


class Board:
    """What the driver and its workers let each other know.

    From the driver: the shared objects, the rung that each climbing candidate is at, and how long rungs may take. From
    the workers: where they are, for Ray may start them anew on another node.
    """

    def __init__(self) -> None:
        self._rungs: dict[int, Fidelity] = {}
        self._limits: dict[int, float | None] = {}
        self._places: dict[str, str] = {}
        self._references: Sequence[Any] = ()
        self._given = asyncio.Event()

    async def share(self, references: Sequence[Any]) -> None:
        """Notes where the factory and its arrays are in the object store."""
        self._references = references
        self._given.set()

    async def shared(self, worker: str, node: str) -> Sequence[Any]:
        """Notes the node of a worker; returns references to the factory and its arrays, as soon as they are known."""
        self._places[worker] = node
        await self._given.wait()
        return self._references

    async def places(self) -> Mapping[str, str]:
        """Returns {worker: id of the node that it was last started on}."""
        return self._places

    async def post(self, candidate_id: int, rung: Fidelity) -> None:
        """Notes the rung that a candidate climbs to."""
        self._rungs[candidate_id] = rung

    async def read(self, candidate_id: int) -> Fidelity:
        """Returns the rung of a candidate."""
        return self._rungs[candidate_id]

    async def limit(self, level: int, seconds: float | None) -> None:
        """Notes how long a rung may take."""
        self._limits[level] = seconds

    async def limit_of(self, level: int) -> float | None:
        """Returns how many seconds a rung may take by now, None for no limit."""
        return self._limits.get(level)


class CandidateTrial(tune.Trainable):  # type: ignore[misc]
    """A Tune trial: one candidate, one result a rung, evaluated elsewhere."""

    _config: dict[str, Any]
    _begun: bool
    _evaluator: Any
    _ready: Any

    def setup(self, config: dict[str, Any]) -> None:
        """Begins with a candidate."""
        self._actors: dict[str, Any] = {}
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins with another candidate in the same process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Returns the timed outcome of one rung."""
        candidate: Candidate = self._config["candidate"]
        if self._begun:
            candidate = replace(candidate, fidelity=ray.get(self._board.read.remote(candidate.id)))
            self._ready = self._evaluator.ready.remote()
        self._begun = True
        return {"timed": self._evaluate(candidate)}

    def _begin(self, config: dict[str, Any]) -> None:
        self._config = config
        self._begun = False
        self._evaluator = self._actor(config["evaluator"])
        # Asked now and heard in `step`: the answer comes while Tune turns from the one to the other.
        self._ready = self._evaluator.ready.remote()

    def _actor(self, name: str) -> Any:
        """Returns an actor by its name, which is looked up once: a successor has another one."""
        if name not in self._actors:
            self._actors[name] = ray.get_actor(name, namespace=self._config["namespace"])
        return self._actors[name]

    @property
    def _board(self) -> Any:
        return self._actor(self._config["board"])

    def _evaluate(self, candidate: Candidate) -> Timed | Broken | None:
        """Returns the timed outcome, None where the worker died: the driver decides who tries again."""
        started = time.time()
        try:
            # The time limit is for the evaluation, not for a worker that is still starting, or starting again.
            problem: str | None = ray.get(self._ready)
            if problem is not None:
                return Broken(problem)
            evaluation = self._evaluator.evaluate.options(max_task_retries=0).remote(candidate)
            answer = self._waited(evaluation, candidate.fidelity.level)
        except RayError:
            return None
        if not isinstance(answer, _Overdue):
            return answer
        # Nothing else stops a computation that hangs. Ray restarts the evaluator.
        ray.kill(self._evaluator, no_restart=False)
        ended = time.time()
        reason = f"timed out after {answer.limit:g} s"
        failure = Failure(candidate, reason, ended - started, str(self._config["worker"]))
        return Timed(failure, started, ended, overdue=True)

    def _waited(self, evaluation: Any, level: int) -> Timed | Broken | _Overdue:
        """Returns the answer, or that it is overdue: by a limit that may come, and grow, while others are heard."""
        asked: float | None = self._config["timeout"]
        began, limit = time.monotonic(), asked
        while True:
            left = self._config["look"] if limit is None else began + limit - time.monotonic()
            try:
                answer: Timed | Broken = ray.get(evaluation, timeout=max(0.0, min(left, self._config["look"])))
                return answer
            except GetTimeoutError:
                if asked is None:
                    with suppress(RayError):  # no fault of the evaluator's
                        limit = ray.get(self._board.limit_of.remote(level))
                if limit is not None and time.monotonic() - began >= limit:
                    return _Overdue(limit)
