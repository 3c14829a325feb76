"""The Ray Tune backend: starts or joins a cluster, runs the search on it, and ends what it began."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable

import ray
from ray import tune

from autoprune.backends.evaluating import busy_span
from autoprune.backends.interrupts import Interrupts
from autoprune.backends.ray_tune.actors import CandidateTrial, Pool
from autoprune.backends.ray_tune.cluster import cluster, quiet, settings
from autoprune.backends.ray_tune.seams import Driver, LadderScheduler, StopWhen, StudySearcher
from autoprune.core.seams import BackendReport, EvaluatorFactory, PassiveStudy
from autoprune.errors import BackendError

#: CPUs of one light trial.
_TRIAL_CPUS = 0.001


class RayBackend:
    """Evaluates candidates on Ray Tune workers, on this machine or on a cluster."""

    def __init__(
        self,
        workers: int,
        *,
        cpus_per_worker: int = 1,
        gpus_per_worker: float = 0.0,
        address: str | None = None,
        evaluation_timeout: float | None = None,
        start_timeout: float = 300.0,
    ) -> None:
        """Describes the workers; nothing starts before `run`.

        Args:
            workers: evaluators at a time.
            cpus_per_worker: CPUs and computing threads of each.
            gpus_per_worker: GPUs of each; a fraction lets several share one, 0 hides them.
            address: of a running cluster, `auto` or HOST:PORT; None starts Ray on this machine, or uses what runs in
                this process.
            evaluation_timeout: seconds after which one rung of one candidate counts as failed.
            start_timeout: seconds that the workers may take to start.

        Raises:
            BackendError: a number makes no sense.
        """
        if workers < 1 or cpus_per_worker < 1 or gpus_per_worker < 0:
            raise BackendError(
                f"{workers} workers with {cpus_per_worker} CPUs and {gpus_per_worker:g} GPUs each cannot work. Give at "
                "least 1 worker and 1 CPU, and no negative number of GPUs."
            )
        self._workers = workers
        self._cpus = cpus_per_worker
        self._gpus = gpus_per_worker
        self._address = address
        self._evaluation_timeout = evaluation_timeout
        self._start_timeout = start_timeout

    def run(self, study: PassiveStudy, factory: EvaluatorFactory, *, should_stop: Callable[[], bool]) -> BackendReport:
        """Drives the study until it is done, `should_stop()` or Ctrl-C.

        Evaluations under way are then ended and not told; their candidates stay pending.

        Raises:
            BackendError: Ray cannot be reached, lacks the resources, or its workers do not start.
        """
        store = sum(array.nbytes for array in factory.arrays.values())
        with (
            Interrupts() as interrupts,
            settings(),
            quiet(),
            cluster(self._address, self._workers * self._cpus, store),
        ):
            self._require_resources()
            pool = Pool(
                factory,
                workers=self._workers,
                cpus=self._cpus,
                gpus=self._gpus,
                start_timeout=self._start_timeout,
            )
            driver = Driver(
                study,
                pool,
                timeout=self._evaluation_timeout,
                should_stop=lambda: interrupts.requested or should_stop(),
            )
            try:
                self._drive(driver)
            finally:
                pool.kill()
        if driver.error is not None:
            raise driver.error
        seconds, busy = busy_span(driver.timings)
        return BackendReport(self._workers, seconds=seconds, busy_seconds=busy, interrupted=not study.done)

    def _drive(self, driver: Driver) -> None:
        storage = tempfile.mkdtemp(prefix="autoprune-tune-")
        try:
            tune.run(
                CandidateTrial,
                name="search",
                num_samples=-1,
                search_alg=StudySearcher(driver),
                scheduler=LadderScheduler(driver, keep_idle=self._workers),
                stop=StopWhen(driver.stop_all),
                resources_per_trial={"cpu": _TRIAL_CPUS},
                max_concurrent_trials=self._workers,
                reuse_actors=True,
                storage_path=storage,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
                raise_on_failed_trial=False,
                verbose=0,
            )
        except OSError as error:
            raise BackendError(
                f"Ray Tune cannot write below {tempfile.gettempdir()}: {error.strerror or error}. Make room, or set "
                "TMPDIR to another folder."
            ) from error
        finally:
            shutil.rmtree(storage, ignore_errors=True)

    def _require_resources(self) -> None:
        resources = ray.cluster_resources()
        for resource, each in (("CPU", float(self._cpus)), ("GPU", self._gpus)):
            have = resources.get(resource, 0.0)
            if self._workers * each > have:
                raise BackendError(
                    f"{self._workers} workers need {self._workers * each:g} {resource}s, Ray has {have:g}. Lower "
                    f"--workers{' or --gpus-per-worker' if resource == 'GPU' else ''}."
                )
