"""Ray Train: the same work in several processes that `torch.distributed` joins, on this machine or on a cluster."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autoprune.backends.ray_tune import nodes
from autoprune.backends.ray_tune.actors import root_cause
from autoprune.backends.ray_tune.cluster import cluster, import_path, quiet, settings
from autoprune.errors import BackendError

Tell = Callable[[Any], None]


class Work(Protocol):
    """What every process does; pickled, arrays and all."""

    def __call__(self, rank: int, size: int, tell: Tell, *, gpu: bool) -> None:
        """Does it, as process `rank` of `size`, with a GPU or none; what it tells is heard by the caller, in order."""
        ...


class Mailbox:
    """What the processes tell and the caller has not heard yet, and the work for them."""

    def __init__(self, work: Sequence[Any]) -> None:
        self._work = work
        self._items: list[Any] = []
        self._news = asyncio.Event()

    async def work(self) -> Sequence[Any]:
        """Returns a reference to the work."""
        return self._work

    async def tell(self, item: Any) -> None:
        """Takes an item."""
        self._items.append(item)
        self._news.set()

    async def take(self) -> list[Any]:
        """Returns all items since the last call, waiting for one, but not for long."""
        try:
            await asyncio.wait_for(self._news.wait(), timeout=1.0)
        except TimeoutError:
            return []
        self._news.clear()
        taken, self._items = self._items, []
        return taken


def run_team(
    work: Work,
    *,
    workers: int,
    gpu: bool | None,
    local_gpus: Sequence[str],
    address: str | None,
    hear: Callable[[Any], None],
    warn: Callable[[str], None],
) -> None:
    """Runs the work in `workers` processes, each with a CPU, and with a GPU if they are to compute on any.

    Args:
        work: what they do.
        workers: how many.
        gpu: whether each has a GPU, so that they talk through NCCL, else through gloo; None where any node has one.
        local_gpus: those of this machine that a Ray which is started here may use, as `CUDA_VISIBLE_DEVICES` names
            them.
        address: of a running cluster, None to start Ray on this machine.
        hear: called in another thread with what they tell.
        warn: hears in one line that they will do without the GPUs that this machine has.

    Raises:
        BackendError: Ray cannot be reached, has no room, or a process failed; its reason is in one line.
    """
    with (
        tempfile.TemporaryDirectory(prefix="autoprune-train-", ignore_cleanup_errors=True) as storage,
        settings(),
        quiet(),
        cluster(address, workers + 1, 0, gpus=() if gpu is False else local_gpus),
    ):
        there = nodes.have_gpus(nodes.living().values()) if gpu is None else gpu
        if local_gpus and gpu is None and not there:
            warn("Ray has no GPU, though this machine has one: the network is trained on CPUs.")
        _require_room(workers, gpu=there)
        name, box = _mailbox(work)
        trainer = _trainer(name, workers=workers, gpu=there, storage=storage)
        try:
            with _Ear(box, hear):
                trainer.fit()
        except (RayError, RuntimeError) as error:
            raise BackendError(f"A training process failed: {_reason(error)}.") from error
        finally:
            ray.kill(box)


def _require_room(workers: int, *, gpu: bool) -> None:
    room = nodes.room(nodes.living().values(), cpus=1, gpus=float(gpu))
    if room < workers:
        kind, otherwise = (" with a GPU each", ", or train on CPUs with --device cpu") if gpu else ("", "")
        raise BackendError(
            f"The nodes have room for {room} workers{kind}, not for {workers}. Lower --workers{otherwise}."
        )


def _mailbox(work: Work) -> tuple[str, Any]:
    """Returns the name of a mailbox with the work in it, and the mailbox."""
    name = f"autoprune-team-{uuid.uuid4().hex[:12]}"
    beside = NodeAffinitySchedulingStrategy(nodes.here(), soft=False)
    reference = ray.put(work)
    box = ray.remote(Mailbox).options(name=name, num_cpus=0, scheduling_strategy=beside).remote([reference])
    return name, box


def _trainer(mailbox: str, *, workers: int, gpu: bool, storage: str) -> Any:
    """Returns the trainer of processes that find their work in a mailbox."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    return TorchTrainer(
        member,
        train_loop_config={"mailbox": mailbox, "namespace": ray.get_runtime_context().namespace, "gpu": gpu},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})}
        ),
        run_config=RunConfig(
            name="finetune", storage_path=storage, worker_runtime_env={"env_vars": dict(import_path())}
        ),
    )


def member(config: dict[str, Any]) -> None:
    """Does the work of one process: the loop that Ray Train runs in each.

    Args:
        config: name and namespace of the mailbox, and whether the process has a GPU.
    """
    from ray import train

    box = ray.get_actor(config["mailbox"], namespace=config["namespace"])
    (reference,) = ray.get(box.work.remote())
    context = train.get_context()
    work: Work = ray.get(reference)
    rank, size = context.get_world_rank(), context.get_world_size()
    work(rank, size, lambda item: ray.get(box.tell.remote(item)), gpu=config["gpu"])


class _Ear:
    """Hears what is told while it is entered, and all that is left at its end."""

    def __init__(self, box: Any, hear: Callable[[Any], None]) -> None:
        self._box, self._hear = box, hear
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._listen, name="autoprune-team", daemon=True)

    def __enter__(self) -> _Ear:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._over.set()
        self._thread.join(30.0)
        if self._error is not None and error is None:
            raise self._error

    def _listen(self) -> None:
        try:
            while True:
                last = self._over.is_set()
                items = ray.get(self._box.take.remote())
                for item in items:
                    self._hear(item)
                if last and not items:
                    return
        except Exception as error:  # raised where the team is run
            self._error = error


def _reason(error: BaseException) -> str:
    """Returns what went wrong in the first process that failed, in one line."""
    failures = getattr(error, "worker_failures", None)
    first = next(iter(failures.values()), error) if isinstance(failures, dict) else error
    text = root_cause(first)
    return text.rstrip(".")
