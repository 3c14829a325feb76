"""How long a forward pass takes on this machine: FLOPs are not milliseconds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from autoprune.devices import machine
from autoprune.searching.latency.timing import STEADY, Effort, spread_of, timed

#: Of a report.
EFFORT = Effort()


def measure_latency(
    networks: Mapping[str, nn.Module],
    input_shape: Sequence[int],
    *,
    batches: Sequence[int],
    effort: Effort | None = None,
) -> dict[str, Any]:
    """Returns the median seconds of a forward pass of `pruned` and, if given, of `dense`, at every batch size.

    The networks take turns, so that whatever else slows the machine slows both. They run with the threads that torch
    has: all cores, or `OMP_NUM_THREADS`.

    Args:
        networks: `pruned`, and `dense` or not.
        input_shape: (C, H, W).
        batches: images per pass.
        effort: for the networks at one batch size on one device; `EFFORT` if None.
    """
    effort = effort or EFFORT
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = []
    with torch.inference_mode():
        for device in devices:
            placed = {name: network.eval().to(device) for name, network in networks.items()}
            for batch in batches:
                generator = torch.Generator().manual_seed(0)
                images = torch.randn(batch, *input_shape, generator=generator).to(device)
                passes = {name: partial(network, images) for name, network in placed.items()}
                rows.append(_row(device, batch, timed(passes, effort, device=device)))
    return {
        "rows": rows,
        "threads": torch.get_num_threads(),
        "repeats": min(row["repeats"] for row in rows),
        "warm_up": effort.warm_up,
        "machine": machine(devices[-1]),
        "torch": torch.__version__,
        "input_shape": list(input_shape),
    }


def _row(device: str, batch: int, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    # A clock may be too coarse for the smallest networks; nobody divides by zero for that.
    medians = {name: max(1e-9, statistics.median(values)) for name, values in seconds.items()}
    spread = max(spread_of(values) for values in seconds.values())
    dense = medians.get("dense")
    return {
        "device": device,
        "batch": batch,
        "repeats": len(seconds["pruned"]),
        "dense": dense,
        "pruned": medians["pruned"],
        "speedup": dense / medians["pruned"] if dense is not None else None,
        "spread": spread,
        "steady": spread <= STEADY,
    }
