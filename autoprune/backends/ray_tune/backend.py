"""The Ray Tune backend: starts or joins a cluster, runs the search on it, and ends what it began."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence

from ray import tune

from autoprune.backends.evaluating import report_of
from autoprune.backends.interrupts import Interrupts
from autoprune.backends.patience import Patience
from autoprune.backends.ray_tune import nodes
from autoprune.backends.ray_tune.actors import CandidateTrial
from autoprune.backends.ray_tune.cluster import cluster, quiet, settings
from autoprune.backends.ray_tune.pool import Pool
from autoprune.backends.ray_tune.seams import Driver, LadderScheduler, StopWhen, StudySearcher
from autoprune.core.seams import BackendReport, EvaluatorFactory, PassiveStudy
from autoprune.errors import BackendError

#: CPUs of one light trial.
_TRIAL_CPUS = 0.001
#: CPUs and computing threads of one evaluator.
_WORKER_CPUS = 1

Warn = Callable[[str], None]


def _unheard(_text: str) -> None:
    """Does nothing."""


class RayBackend:
    """Evaluates candidates on Ray Tune workers, on this machine or on a cluster."""

    def __init__(
        self,
        workers: int | None,
        *,
        gpus_per_worker: float | None = 0.0,
        address: str | None = None,
        local_cpus: int = 1,
        local_gpus: Sequence[str] = (),
        warn: Warn = _unheard,
        evaluation_timeout: float | None = None,
    ) -> None:
        """Describes the workers; nothing starts before `run`.

        Args:
            workers: evaluators at a time; None for as many as there is room for.
            gpus_per_worker: GPUs of each; a fraction lets several share one, 0 hides them. None for a share of one
                where there are any, such that all workers find a place: two workers a GPU if their number is open.
            address: of a running cluster, `auto` or HOST:PORT; None starts Ray on this machine, or uses what runs in
                this process.
            local_cpus: cores of this machine, as many as workers on CPUs are started here if their number is open.
            local_gpus: those of this machine that a Ray which is started here may use, as `CUDA_VISIBLE_DEVICES` names
                them. Ray is told, not asked: it counts what the driver shows, not what torch can use.
            warn: hears in one line that workers will do without the GPUs that this machine has, or that a worker is
                left out.
            evaluation_timeout: seconds after which one rung of one candidate counts as failed and its worker is
                started anew; None for what `Patience` makes of those that have ended.

        Raises:
            BackendError: a number makes no sense.
        """
        gpus = gpus_per_worker or 0.0
        if (workers is not None and workers < 1) or gpus < 0:
            raise BackendError(
                f"{'Any number of' if workers is None else workers} workers with {gpus:g} GPUs each cannot work. Give "
                "at least 1 worker, and no negative number of GPUs."
            )
        if gpus > 1 and gpus % 1:
            raise BackendError(
                f"{gpus:g} GPUs per worker cannot be had. Give a share of one GPU or a whole number with "
                "--gpus-per-worker."
            )
        self._workers = workers
        self._gpus = gpus_per_worker
        self._address = address
        self._local_gpus = () if gpus_per_worker == 0 else tuple(local_gpus)
        self._local_workers = workers or max(local_cpus, nodes.WORKERS_PER_GPU * len(self._local_gpus))
        self._warn = warn
        self._evaluation_timeout = evaluation_timeout

    def run(self, study: PassiveStudy, factory: EvaluatorFactory, *, should_stop: Callable[[], bool]) -> BackendReport:
        """Drives the study until it is done, `should_stop()` or Ctrl-C.

        Evaluations under way are then ended and not told; their candidates stay pending.

        Raises:
            BackendError: Ray cannot be reached, lacks the resources, or its workers do not start or cannot be built
                again.
        """
        store = sum(array.nbytes for array in factory.arrays.values())
        with (
            Interrupts() as interrupts,
            settings(),
            quiet(),
            cluster(self._address, self._local_workers * _WORKER_CPUS, store, gpus=self._local_gpus),
        ):
            crew = nodes.crew(nodes.living().values(), workers=self._workers, cpus=_WORKER_CPUS, gpus=self._gpus)
            if self._local_gpus and not crew.gpus:
                self._warn("Ray has no GPU, though this machine has one: candidates are evaluated on CPUs.")
            pool = Pool(
                factory,
                workers=crew.workers,
                cpus=_WORKER_CPUS,
                gpus=crew.gpus,
            )
            driver = Driver(
                study,
                pool,
                patience=Patience(self._evaluation_timeout),
                should_stop=lambda: interrupts.requested or should_stop(),
                warn=self._warn,
            )
            try:
                drive(driver, workers=crew.workers)
            finally:
                pool.kill()
        if driver.error is not None:
            raise driver.error
        return report_of(driver.timings, workers=crew.workers, interrupted=not study.done)


def drive(driver: Driver, *, workers: int) -> None:
    """Lets Tune run trials on so many workers until the driver has no more for them.

    Raises:
        BackendError: Tune cannot write.
    """
    storage = tempfile.mkdtemp(prefix="autoprune-tune-")
    try:
        tune.run(
            CandidateTrial,
            name="search",
            num_samples=-1,
            search_alg=StudySearcher(driver),
            scheduler=LadderScheduler(driver, keep_idle=workers),
            stop=StopWhen(driver.stop_all),
            resources_per_trial={"cpu": _TRIAL_CPUS},
            max_concurrent_trials=workers,
            reuse_actors=True,
            storage_path=storage,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
            raise_on_failed_trial=False,
            verbose=0,
        )
    except OSError as error:
        if driver.done:
            return  # what Tune writes at its end is thrown away: seen where Ray carries the working directory
        raise BackendError(
            f"Ray Tune cannot write below {tempfile.gettempdir()}: {error.strerror or error}. Make room, or set "
            "TMPDIR to another folder."
        ) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
