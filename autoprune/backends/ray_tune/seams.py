"""The seams through which Tune is driven: it asks a searcher, tells a scheduler, and obeys a stopper."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from autoprune.backends.evaluating import Span, Timed
from autoprune.backends.patience import Patience
from autoprune.backends.ray_tune.actors import RETRIES, Broken
from autoprune.backends.ray_tune.pool import Pool
from autoprune.core.candidate import Candidate, Failure
from autoprune.core.seams import PassiveStudy

#: Candidates that are asked for before a worker is free. More would be proposed knowing less.
_AHEAD = 2
#: Seconds without news after which all workers have begun: who asks sooner lets one of them wait.
_SETTLED = 0.1
#: Seconds between two looks of one who waits for an evaluation at how long it may take by now.
_LOOK = 30.0
#: Broken answers in a row after which a worker is retired, and seconds before it is tried again, doubled each time: 15
#: in all, for what a process that was killed has left behind to go.
_TRIES = 5
_REST = 1.0


class Driver:
    """Stands between Tune and the study, in the driver process: who evaluates what, and whether to go on.

    While all workers are busy it asks for what they will do next: a proposal of a strategy that learns takes longer
    than all else between two evaluations. One worker is asked for when it is free, as in the serial backend.
    """

    def __init__(
        self,
        study: PassiveStudy,
        pool: Pool,
        *,
        patience: Patience,
        should_stop: Callable[[], bool],
        warn: Callable[[str], None],
    ) -> None:
        self.timings: list[Span] = []
        self.error: BaseException | None = None
        self.stopped = False
        self._study = study
        self._pool = pool
        self._patience = patience
        self._should_stop = should_stop
        self._warn = warn
        self._free = list(reversed(range(pool.size)))
        #: {trial: (its candidate, None once that is finished; its evaluator)}.
        self._running: dict[str, tuple[Candidate | None, int]] = {}
        self._again: deque[Candidate] = deque()
        self._ahead: deque[Candidate] = deque()
        self._news_at = time.monotonic()
        self._lost: Counter[int] = Counter()
        #: Trials whose worker died, and trials whose evaluator went with its node and has a successor.
        self._died: set[str] = set()
        self._orphans: set[str] = set()
        #: Evaluators that have not started again yet.
        self._absent: set[int] = set()
        #: {trial: why its evaluator could not be built}.
        self._broken: dict[str, str] = {}
        #: {evaluator: how often in a row it could not be built}, and {evaluator: when it is tried again}.
        self._tries: Counter[int] = Counter()
        self._resting: dict[int, float] = {}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Tune pickles its seams every few seconds. A search resumes from its ledger, so nothing of it is wanted there,
        # and what hangs on the study (terminals, files, threads) could not be pickled anyway.
        return object, ()

    @property
    def done(self) -> bool:
        """Whether every candidate has been told."""
        return self.error is None and self._study.done

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the config of the next trial, None to wait, or FINISHED."""
        finished: str = Searcher.FINISHED
        if not (self._free or self._running):
            self.stop_all()  # Tune, which has no trial left, blocks until it gets one and does not ask the stopper
        if self.stopped or not self._free:
            return finished if self.stopped else None
        with self._guard():
            candidate = self._next()
            if candidate is None:
                return finished if self._study.done else None
            self._news_at = time.monotonic()
            index = self._free.pop()
            self._running[trial_id] = candidate, index
            limits = {"timeout": self._patience.asked, "look": _LOOK}
            return {**self._pool.names(index), "candidate": candidate, **limits}
        return finished

    def result(self, trial_id: str, timed: Timed | Broken | None) -> bool:
        """Tells the study what a rung said; returns whether the trial goes on. None says that its worker died."""
        if self.stopped:
            return False
        self._news_at = time.monotonic()
        if isinstance(timed, Broken):
            self._broken[trial_id] = timed.reason
            return False
        if timed is None:
            self._died.add(trial_id)
            return False
        with self._guard():
            candidate, index = self._running[trial_id]
            if candidate is None:
                return False
            del self._tries[index]
            self.timings.append(Span(timed.outcome.worker, timed.started, timed.ended))
            if timed.overdue:
                self._warn(
                    f"{timed.outcome.worker} took longer than {timed.ended - timed.started:.0f} s for candidate "
                    f"{candidate.id} and is started anew. --evaluation-timeout sets another limit."
                )
            if self._patience.heard(timed):
                self._pool.limit(candidate.fidelity.level, self._patience.limit(candidate.fidelity.level))
            rung = self._study.tell(timed.outcome)
            if rung is not None:
                self._running[trial_id] = replace(candidate, fidelity=rung), index
                ray.get(self._pool.board.post.remote(candidate.id, rung))
                return True
            self._running[trial_id] = None, index
        return False

    def ended(self, trial_id: str, *, lost: bool) -> None:
        """Frees the evaluator of a trial; a candidate whose trial or worker was lost is tried again."""
        candidate, index = self._running.pop(trial_id, (None, -1))
        lost, broken = lost or trial_id in self._died, self._broken.pop(trial_id, None)
        if index >= 0 and trial_id not in self._orphans:
            if broken is None:
                self._free.append(index)
            else:
                self._rest(index, broken)
        self._died.discard(trial_id)
        self._orphans.discard(trial_id)
        if candidate is None or self.stopped:
            return
        if broken is not None:
            self._again.append(candidate)
        elif lost:
            self._lose(candidate)

    def _lose(self, candidate: Candidate) -> None:
        """Puts a candidate whose worker died first in line; one that has cost too many workers fails."""
        self._lost[candidate.id] += 1
        if self._lost[candidate.id] <= RETRIES:
            self._again.append(candidate)
            return
        with self._guard():
            self._study.tell(Failure(candidate, f"its worker died {RETRIES + 1} times"))

    def _rest(self, index: int, reason: str) -> None:
        """Leaves a worker that could not be built out for a while; after too many tries in a row, for good."""
        self._tries[index] += 1
        if self._tries[index] < _TRIES:
            self._resting[index] = time.monotonic() + _REST * 2 ** (self._tries[index] - 1)
            return
        with self._guard():
            self._pool.retire(index, reason=reason)
            self._warn(f"worker-{index} cannot build its evaluator and is left out of the search: {reason}.")

    def stop_all(self) -> bool:
        """Returns whether the search is to end now; ends the evaluations under way if so."""
        if not self.stopped:
            with self._guard():
                self._pool.check()
                self._tend()
                self.stopped = self._should_stop()
                self._think_ahead()
        if self.stopped:
            self._pool.kill()
        return self.stopped

    def _next(self) -> Candidate | None:
        for waiting in (self._again, self._ahead):
            if waiting:
                return waiting.popleft()
        return self._study.ask()

    def _think_ahead(self) -> None:
        """Asks for a candidate that no worker is free for, when there is nothing else to do."""
        enough = self._pool.size < 2 or len(self._ahead) >= _AHEAD
        if self.stopped or self._free or enough or time.monotonic() - self._news_at < _SETTLED:
            return
        candidate = self._study.ask()
        if candidate is not None:
            self._ahead.append(candidate)

    def _tend(self) -> None:
        """Takes evaluators whose node has gone out of work, and their successors into it."""
        for index in self._pool.lost():
            self._absent.add(index)
            self._orphans.update(trial for trial, (_, holder) in self._running.items() if holder == index)
        self._free = [index for index in self._free if index not in self._absent]
        self._resting = {index: until for index, until in self._resting.items() if index not in self._absent}
        for index in self._pool.back():
            self._absent.discard(index)
            del self._tries[index]
            self._free.append(index)
        for index in [index for index, until in self._resting.items() if time.monotonic() >= until]:
            del self._resting[index]
            self._free.insert(0, index)  # asked after those that work

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
