"""How long a forward pass takes on this machine: FLOPs are not milliseconds."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

#: Passes of each network that are thrown away; then so many are measured, more while they take less than a second.
WARM_UP, REPEATS, MOST_REPEATS, SECONDS = 5, 31, 301, 1.0
#: The middle half of the passes spread wider than this around their median tells of a busy machine.
_STEADY = 0.25


def measure_latency(
    networks: Mapping[str, nn.Module],
    input_shape: Sequence[int],
    *,
    batches: Sequence[int],
    repeats: int = REPEATS,
    warm_up: int = WARM_UP,
) -> dict[str, Any]:
    """Returns the median seconds of a forward pass of `pruned` and, if given, of `dense`, at every batch size.

    The networks take turns, so that whatever else slows the machine slows both. They run with the threads that torch
    has: all cores, or `OMP_NUM_THREADS`.

    Args:
        networks: `pruned`, and `dense` or not.
        input_shape: (C, H, W).
        batches: images per pass.
        repeats: passes measured at least, two or more.
        warm_up: passes before.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = []
    with torch.inference_mode():
        for device in devices:
            placed = {name: network.eval().to(device) for name, network in networks.items()}
            for batch in batches:
                generator = torch.Generator().manual_seed(0)
                images = torch.randn(batch, *input_shape, generator=generator).to(device)
                rows.append(_row(device, batch, _timed(placed, images, repeats=repeats, warm_up=warm_up)))
    return {
        "rows": rows,
        "threads": torch.get_num_threads(),
        "repeats": min(row["repeats"] for row in rows),
        "warm_up": warm_up,
        "machine": _machine(devices),
        "torch": torch.__version__,
        "input_shape": list(input_shape),
    }


def _timed(
    networks: Mapping[str, nn.Module], images: torch.Tensor, *, repeats: int, warm_up: int
) -> dict[str, list[float]]:
    """Returns the seconds of every pass of every network."""
    found: dict[str, list[float]] = {name: [] for name in networks}
    began = time.perf_counter()
    for turn in range(warm_up + MOST_REPEATS):
        if turn >= warm_up + repeats and time.perf_counter() - began > SECONDS:
            break
        for name, network in networks.items():
            _wait(images)
            started = time.perf_counter()
            network(images)
            _wait(images)
            if turn >= warm_up:
                found[name].append(time.perf_counter() - started)
    return found


def _row(device: str, batch: int, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    # A clock may be too coarse for the smallest networks; nobody divides by zero for that.
    medians = {name: max(1e-9, statistics.median(values)) for name, values in seconds.items()}
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in seconds.items()}
    spread = max((high - low) / (2 * medians[name]) for name, (low, _, high) in quartiles.items())
    dense = medians.get("dense")
    return {
        "device": device,
        "batch": batch,
        "repeats": len(seconds["pruned"]),
        "dense": dense,
        "pruned": medians["pruned"],
        "speedup": dense / medians["pruned"] if dense is not None else None,
        "spread": spread,
        "steady": spread <= _STEADY,
    }


def _wait(images: torch.Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def _machine(devices: Sequence[str]) -> str:
    """Returns the names of the processor and, if it was used, of the GPU."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # no Linux
    return f"{name}, {torch.cuda.get_device_name()}" if "cuda" in devices else name
