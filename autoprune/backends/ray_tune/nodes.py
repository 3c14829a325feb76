"""The machines of a cluster: what fits on them, which have gone, and whether they run what the driver runs."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import ray

#: Packages that must be the same everywhere: they make what is pickled, and the scores.
_PACKAGES = ("autoprune", "torch", "numpy", "ray")
#: Of a share such as 1/3, three fit on one GPU.
_ROUNDING = 1e-6


def living() -> dict[str, Mapping[str, Any]]:
    """Returns {node id: what Ray says of it} of the nodes that answer."""
    return {str(node["NodeID"]): node for node in ray.nodes() if node["Alive"]}


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
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue  # autoprune itself may lie on the path without being installed
    return found


def difference(driver: Mapping[str, str], node: Mapping[str, str], *, where: str) -> str | None:
    """Returns in one sentence what a node has in another version than the driver, None where all is the same."""
    other = [name for name in sorted({*driver, *node}) if driver.get(name) != node.get(name)]
    if not other:
        return None
    pairs = ", ".join(f"{name} {node.get(name, 'missing')} (driver: {driver.get(name, 'missing')})" for name in other)
    return f"node {where} has {pairs}. Install the same versions on every node"
