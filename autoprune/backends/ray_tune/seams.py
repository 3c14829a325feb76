"""The seams through which Tune is driven: it asks a searcher, tells a scheduler, and obeys a stopper."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from autoprune.backends.evaluating import Timed
from autoprune.backends.ray_tune.actors import RETRIES, Pool
from autoprune.core.candidate import Candidate, Failure
from autoprune.core.seams import PassiveStudy


class Driver:
    """Stands between Tune and the study, in the driver process: who evaluates what, and whether to go on."""

    def __init__(
        self,
        study: PassiveStudy,
        pool: Pool,
        *,
        timeout: float | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.timings: list[tuple[float, float]] = []
        self.error: BaseException | None = None
        self.stopped = False
        self._study = study
        self._pool = pool
        self._timeout = timeout
        self._should_stop = should_stop
        self._free = list(reversed(range(len(pool.evaluators))))
        self._running: dict[str, tuple[Candidate, int]] = {}
        self._again: deque[Candidate] = deque()
        self._lost: Counter[int] = Counter()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Tune pickles its seams every few seconds. A search resumes from its ledger, so nothing of it is wanted there,
        # and what hangs on the study (terminals, files, threads) could not be pickled anyway.
        return object, ()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the config of the next trial, None to wait, or FINISHED."""
        finished: str = Searcher.FINISHED
        if self.stopped or not self._free:
            return finished if self.stopped else None
        with self._guard():
            candidate = self._again.popleft() if self._again else self._study.ask()
            if candidate is None:
                return finished if self._study.done else None
            index = self._free.pop()
            self._running[trial_id] = candidate, index
            return {**self._pool.names(index), "candidate": candidate, "timeout": self._timeout}
        return finished

    def result(self, trial_id: str, timed: Timed) -> bool:
        """Tells the study what a rung said; returns whether the trial goes on."""
        if self.stopped:
            return False
        with self._guard():
            candidate, index = self._running[trial_id]
            self.timings.append((timed.started, timed.ended))
            rung = self._study.tell(timed.outcome)
            if rung is not None:
                self._running[trial_id] = replace(candidate, fidelity=rung), index
                ray.get(self._pool.board.post.remote(candidate.id, rung))
                return True
        return False

    def ended(self, trial_id: str, *, lost: bool) -> None:
        """Frees the evaluator of a trial; a candidate whose trial was lost is tried again."""
        candidate, index = self._running.pop(trial_id, (None, -1))
        if candidate is None:
            return
        self._free.append(index)
        if not lost or self.stopped:
            return
        self._lost[candidate.id] += 1
        if self._lost[candidate.id] <= RETRIES:
            self._again.append(candidate)
            return
        with self._guard():
            self._study.tell(Failure(candidate, f"its Tune trial was lost {RETRIES + 1} times"))

    def stop_all(self) -> bool:
        """Returns whether the search is to end now; ends the evaluations under way if so."""
        if not self.stopped:
            with self._guard():
                self._pool.check()
                self.stopped = self._should_stop()
        if self.stopped:
            self._pool.kill()
        return self.stopped

    @contextmanager
    def _guard(self) -> Iterator[None]:
        # Tune takes an exception in its callbacks for a failed trial. It is a failed search: it is raised at the end.
        try:
            yield
        except Exception as error:
            self.error, self.stopped = error, True


class StudySearcher(Searcher):  # type: ignore[misc]
    """Tune's search seam: candidates come from the study."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the config of the next trial, None to wait, or FINISHED."""
        return self._driver.suggest(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:  # noqa: ARG002 (Tune's signature)
        """Frees what the trial held."""
        self._driver.ended(trial_id, lost=error)

    def save(self, checkpoint_path: str) -> None:
        """Writes nothing: the ledger is what a search resumes from."""


class LadderScheduler(FIFOScheduler):  # type: ignore[misc]
    """Tune's early stopping seam: after every rung, the study says whether the candidate climbs on."""

    def __init__(self, driver: Driver, *, keep_idle: int) -> None:
        super().__init__()
        self._driver = driver
        self._keep_idle = keep_idle

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Lets Tune keep the actors of all workers while a strategy waits, not just one."""
        if self._keep_idle:
            # Tune has no setting for this. Without it, idle trial actors end and take seconds to start again.
            with suppress(Exception):
                controller = getattr(tune_controller, "_tune_controller", tune_controller)
                controller._actor_cache.increase_max(trial.placement_group_factory, self._keep_idle)
            self._keep_idle = 0

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Leaves the choice to Tune's queue.

        Were a trial named here whose actor is still starting, it would take over the next idle actor and its own would
        be thrown away: with short evaluations, one worker would do all the work.
        """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        """Returns CONTINUE when the candidate climbs, else STOP."""
        climbs = self._driver.result(trial.trial_id, result["timed"])
        return str(TrialScheduler.CONTINUE if climbs else TrialScheduler.STOP)


class StopWhen(tune.Stopper):  # type: ignore[misc]
    """Tune's stopper seam: time limits, Ctrl-C and errors end the whole run."""

    def __init__(self, stop_all: Callable[[], bool]) -> None:
        self._stop_all = stop_all

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 (Tune's signature)
        """Returns False: no trial is stopped by itself."""
        return False

    def stop_all(self) -> bool:
        """Returns whether the run is to end now."""
        return self._stop_all()
