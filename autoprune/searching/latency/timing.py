"""How long something takes on this machine, measured fairly: in turns, after a warm-up, and noise is noticed."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from autoprune.devices import gpu_module, is_gpu

#: The middle half of the passes spread wider than this around their median tells of a busy machine.
STEADY = 0.25


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        warm_up: passes of each that are thrown away.
        repeats: passes of each that are measured at least, two or more.
        most_repeats: at most, while they take less than `seconds`.
        seconds: for everything that takes turns, together.
        calls: at a time: what a GPU runs in a row without being waited for.
    """

    warm_up: int = 5
    repeats: int = 31
    most_repeats: int = 301
    seconds: float = 1.0
    calls: int = 1


def timed(passes: Mapping[str, Callable[[], object]], effort: Effort, *, device: str) -> dict[str, list[float]]:
    """Returns the seconds of every pass of everything that is measured.

    They take turns, so that whatever else slows the machine slows all of them, and each turn in another order: in a
    fixed one, a scheduler whose slices are about as long as two passes disturbed every second network in all of its
    passes, fourfold. A single thread on a CPU is measured in CPU time, which leaves out what others take.
    """
    clock = time.thread_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    order, shuffled = list(passes), random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in passes}
    wait = gpu_module(device).synchronize if is_gpu(device) else _nothing
    began = time.perf_counter()
    for turn in range(effort.warm_up + effort.most_repeats):
        if turn >= effort.warm_up + effort.repeats and time.perf_counter() - began > effort.seconds:
            break
        shuffled.shuffle(order)
        for name in order:
            run = passes[name]
            wait()
            started = clock()
            for _ in range(effort.calls):
                run()
            wait()
            if turn >= effort.warm_up:
                found[name].append((clock() - started) / effort.calls)
    return found


class torch_threads:  # noqa: N801 - reads as a verb in a with statement
    """Sets torch's threads for a while: evaluations use one each, preparation and finetuning all cores."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> None:
        """Sets them."""
        self._before = torch.get_num_threads()
        torch.set_num_threads(self._count)

    def __exit__(self, *_: object) -> None:
        """Sets them back."""
        torch.set_num_threads(self._before)


def spread_of(seconds: Sequence[float]) -> float:
    """Returns half the interquartile range as a share of the median."""
    low, median, high = statistics.quantiles(seconds, n=4)
    return (high - low) / (2 * max(1e-9, median))


def _nothing() -> None:
    """Waits for nothing: a CPU is done when a call returns."""
