"""Who evaluates candidates, and on what: this process, or Ray workers on CPUs or GPUs of this machine or a cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from autoprune.core.seams import Backend, BackendReport, PassiveStudy
from autoprune.devices import is_gpu, release_memory, usable_device, visible_gpus
from autoprune.errors import ConfigError
from autoprune.report.observer import Observer
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.latency.timing import torch_threads
from autoprune.searching.search.preparation import Prepared, usable_cores


def require_cores(options: SearchOptions) -> None:
    """Refuses what would bring this machine to its knees: hundreds of processes that each import torch.

    Raises:
        ConfigError: so many workers are asked for.
    """
    most = max(8, 4 * usable_cores())
    if options.backend == "ray" and options.ray_address is None and (options.workers or 0) > most:
        raise ConfigError(
            f"{options.workers} workers are too many for the {usable_cores()} cores of this machine. Give at most "
            f"{most} with --workers, or a cluster with --ray-address."
        )


def evaluated(
    prepared: Prepared, study: PassiveStudy, observer: Observer, *, should_stop: Callable[[], bool]
) -> BackendReport:
    """Lets the backend that was asked for drive a study; returns its report.

    Candidates on CPUs are evaluated on one thread each. Ray gives it to its workers' processes; in this one it is for
    as long as the search takes.

    Raises:
        BackendError: Ray cannot be reached, lacks the resources, or its workers do not start.
    """
    backend = backend_of(prepared, observer)
    factory = prepared.factory()
    # What the preparation has left in this process's cache of a GPU is for the workers.
    release_memory(prepared.device)
    here = prepared.options.backend == "serial" and not is_gpu(prepared.device)
    with torch_threads(1) if here else nullcontext():
        return backend.run(study, factory, should_stop=should_stop)


def backend_of(prepared: Prepared, observer: Observer) -> Backend:
    """Returns the backend that was asked for; how many workers there is room for, and on what, it sees when it runs.

    Without `--gpus-per-worker` workers compute on GPUs where Ray has any, whatever this machine has, unless `--device
    cpu` says otherwise. A local Ray has the GPUs that the device stands for: of `cuda:1` only that one.
    """
    options = prepared.options
    if options.backend == "serial":
        from autoprune.backends import SerialBackend

        return SerialBackend()
    # Ray takes seconds to import: whatever is wrong with the model or the data has been said by now.
    from autoprune.backends import RayBackend

    share = options.gpus_per_worker
    if share is None and options.device == "cpu":
        share = 0.0
    device = prepared.device if is_gpu(prepared.device) else usable_device(None)
    return RayBackend(
        options.workers,
        gpus_per_worker=share,
        address=options.ray_address,
        local_cpus=usable_cores(),
        local_gpus=visible_gpus(device),
        warn=observer.warning,
        evaluation_timeout=options.evaluation_timeout,
    )
