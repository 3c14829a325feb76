"""The machines of a cluster: what fits on them, which have gone, and whether they run what the driver runs."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from autoprune.core.versions import version_of
from autoprune.errors import BackendError

#: Packages that must be the same everywhere: they make what is pickled, and the scores.
_PACKAGES = ("autoprune", "torch", "numpy", "ray")
#: Of a share such as 1/3, three fit on one GPU.
_ROUNDING = 1e-6
#: Workers that share a GPU unless a number is asked for: while one waits for the CPU, the other computes.
WORKERS_PER_GPU = 2


@dataclass(frozen=True, slots=True)
class Crew:
    """The workers of a search.

    Attributes:
        workers: how many.
        gpus: of each, a share of one or a whole number; 0 for workers on the CPU.
    """

    workers: int
    gpus: float


def living() -> dict[str, Mapping[str, Any]]:
    """Returns {node id: what Ray says of it} of the nodes that answer."""
    return {str(node["NodeID"]): node for node in ray.nodes() if node["Alive"]}


def crew(nodes: Iterable[Mapping[str, Any]], *, workers: int | None, cpus: int, gpus: float | None) -> Crew:
    """Returns how many evaluators to start, and with what.

    Args:
        nodes: what Ray says of each.
        workers: how many are asked for; None for as many as there is room for.
        cpus: of each.
        gpus: of each; None for a share of one where there are any.

    Raises:
        BackendError: there is no room for them.
    """
    nodes = tuple(nodes)
    share = _share(nodes, workers=workers, cpus=cpus) if gpus is None else gpus
    fit = room(nodes, cpus=cpus, gpus=share)
    found = Crew(workers or max(1, fit), share)
    for resource, each in (("CPU", float(cpus)), ("GPU", share)):
        have = sum(float(node.get("Resources", {}).get(resource, 0.0)) for node in nodes)
        if found.workers * each > have + _ROUNDING:
            raise BackendError(
                f"{found.workers} workers need {found.workers * each:g} {resource}s, Ray has {have:g}. Lower "
                f"--workers{' or --gpus-per-worker' if resource == 'GPU' else ''}."
            )
    if found.workers > fit:
        raise BackendError(
            f"{found.workers} workers with {cpus} CPUs and {share:g} GPUs each do not fit: the {len(nodes)} nodes have "
            f"room for {fit}, for none stretches over two nodes or GPUs. Lower --workers"
            f"{', or leave the GPUs out with --gpus-per-worker 0' if share else ''}."
        )
    return found


def _share(nodes: Sequence[Mapping[str, Any]], *, workers: int | None, cpus: int) -> float:
    """Returns the GPUs of each worker: the largest share of one at which all of them fit; 0 where there are none.

    With six on four GPUs 1/2, not 4/6: of that, a second one does not fit on the same GPU.
    """
    if not have_gpus(nodes):
        return 0.0
    # CPUs may be short, and those that they suffice for need not share.
    workers = workers or room(nodes, cpus=cpus, gpus=1 / WORKERS_PER_GPU) or 1
    shares = (1 / each for each in range(1, workers + 1))
    return next((share for share in shares if room(nodes, cpus=cpus, gpus=share) >= workers), 1 / workers)


def have_gpus(nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Returns whether any node has a GPU."""
    return any(node.get("Resources", {}).get("GPU", 0.0) >= 1 for node in nodes)


def room(nodes: Iterable[Mapping[str, Any]], *, cpus: int, gpus: float) -> int:
    """Returns how many workers fit: no worker stretches over two nodes, and no share of a GPU over two GPUs."""
    return sum(_room_on(node.get("Resources", {}), cpus=cpus, gpus=gpus) for node in nodes)


def _room_on(resources: Mapping[str, float], *, cpus: int, gpus: float) -> int:
    by_cpu = int(resources.get("CPU", 0.0) // cpus)
    if gpus <= 0:
        return by_cpu
    have = math.floor(resources.get("GPU", 0.0))
    by_gpu = have * int(1 / gpus + _ROUNDING) if gpus < 1 else int(have // gpus)
    return min(by_cpu, by_gpu)


def here() -> str:
    """Returns the id of the node that this process talks to."""
    return str(ray.get_runtime_context().get_node_id())


def address() -> str:
    """Returns the address of this process's node, as Ray knows it."""
    return str(ray.util.get_node_ip_address())


def versions() -> dict[str, str]:
    """Returns {name: version} of Python and the packages that must be the same everywhere.

    What stands behind a `+` says how a package was built (`2.11.0+cpu`) and may differ between machines.
    """
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in _PACKAGES:
        version = version_of(name)
        if version is not None:  # autoprune itself may lie on the path without being installed
            found[name] = version.partition("+")[0]
    return found


def difference(driver: Mapping[str, str], node: Mapping[str, str], *, where: str) -> str | None:
    """Returns in one sentence what a node has in another version than the driver, None where all is the same."""
    other = [name for name in sorted({*driver, *node}) if driver.get(name) != node.get(name)]
    if not other:
        return None
    pairs = ", ".join(f"{name} {node.get(name, 'missing')} (driver: {driver.get(name, 'missing')})" for name in other)
    return f"node {where} has {pairs}. Install the same versions on every node"
