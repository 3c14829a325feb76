"""What computes: the CPU, or a GPU, which is asked through the module that torch has for its maker.

All of these modules answer alike. Users are offered CUDA; tests run the whole program on a pretended device.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from autoprune.errors import ConfigError, one_line

Found = TypeVar("Found")
#: What torch calls the instructions that multiply matrices of bfloat16. Those of Arm are not among them: there
#: convolutions were not timed.
_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def usable_device(asked: str | None) -> str:
    """Returns the device that was asked for, or the best at hand.

    Raises:
        ConfigError: it cannot be used.
    """
    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked, dtype=torch.float64)  # which reconstructions are solved in
    except Exception as error:  # torch answers with AssertionError, RuntimeError or NotImplementedError
        reason = one_line(error).rstrip(".")
        raise ConfigError(f"The device {asked!r} cannot be used: {reason}. Leave --device out.") from error
    return asked


def is_gpu(device: torch.device | str) -> bool:
    """Returns whether a device has memory of its own, half precision, and a queue of work that nobody waits for."""
    return torch.device(device).type != "cpu"


def gpu_module(device: torch.device | str) -> Any:
    """Returns the module of a GPU's maker, such as `torch.cuda`."""
    return torch.get_device_module(device)


def half_precision(device: torch.device | str) -> torch.dtype | None:
    """Returns the 16-bit type that a device multiplies matrices in faster than in float32; None if there is none.

    A CPU has one if it multiplies bfloat16 by instructions of its own (AVX-512 BF16, AMX) and torch has oneDNN, which
    uses them: elsewhere every factor is widened first, which is slower than float32.
    """
    if is_gpu(device):
        native = gpu_module(device).is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    able = torch.cpu.get_capabilities() if torch.backends.mkldnn.is_available() else {}  # type: ignore[no-untyped-call]
    return torch.bfloat16 if any(able.get(name, False) for name in _BFLOAT16_INSTRUCTIONS) else None


def visible_gpus(device: torch.device | str) -> tuple[str, ...]:
    """Returns what `CUDA_VISIBLE_DEVICES` calls the GPUs that a device stands for.

    All that this process sees for `cuda`, the second of them for `cuda:1`, none for the CPU.
    """
    if not is_gpu(device):
        return ()
    count, index = gpu_module(device).device_count(), torch.device(device).index
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in shown.split(",")] if shown else [str(number) for number in range(count)]
    # The variable may name more than there are; torch counts up to the first that is not there.
    return tuple(names[:count]) if index is None else (names[index],)


def device_of_worker(device: torch.device | str, *, gpu: bool) -> str:
    """Returns where a worker computes that has a GPU, or none, whatever the device of the process that started it.

    Without an index: what a worker is shown begins with its own GPU.
    """
    here = torch.device(device).type
    return (here if is_gpu(here) else "cuda") if gpu else "cpu"


def rounding(device: torch.device | str) -> float:
    """Returns the deviation of float32 activations, relative to the largest, up to which they count as the same.

    Sums in another order differ by 1e-6 as a rule. A GPU's convolutions keep ten bits of every factor (TF32), unless
    they are told otherwise. What is not the same differs by as much as it is large.
    """
    return 1e-2 if is_gpu(device) else 1e-3


def processor() -> str:
    """Returns the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def machine(device: torch.device | str) -> str:
    """Returns the name of the processor and, if it is used, of the GPU."""
    return f"{processor()}, {gpu_module(device).get_device_name(device)}" if is_gpu(device) else processor()


def release_memory(device: torch.device | str) -> None:
    """Gives back what a GPU's allocator keeps without using it; does nothing on a CPU."""
    if is_gpu(device):
        gpu_module(device).empty_cache()


def device_of(model: nn.Module) -> torch.device:
    """Returns where a network's parameters lie; the CPU if it has none."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether memory ran out, on a GPU or in the machine: torch's CPU allocator raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("out of memory", "can't allocate memory", "not enough memory")
    )


@contextmanager
def lent(model: nn.Module, device: torch.device | str) -> Iterator[nn.Module]:
    """Moves a network to a device for a while, and then back to where it lay."""
    home = device_of(model)
    try:
        yield model.to(device)
    finally:
        model.to(home)


def in_smaller_batches(device: torch.device | str, work: Callable[[int], Found]) -> Found:
    """Returns what work finds with its batches whole, or in halves where the memory does not suffice for that.

    Args:
        device: whose memory it is.
        work: called with the number of parts that its batches are to be cut into; again, from the start, with 2.
    """
    try:
        return work(1)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Out of the handler, whose error holds the tensors that filled the memory.
    release_memory(device)
    return work(2)


def where_it_fits(model: nn.Module, device: torch.device | str, work: Callable[[torch.device], Found]) -> Found:
    """Returns what work on a network finds on a device, or on the CPU where the GPU's memory does not suffice.

    Args:
        model: lies on the device that `work` is called with, and afterwards where it lay.
        device: where to compute if it can be done there.
        work: what to do; done twice where the first time ends for want of memory.
    """
    try:
        with lent(model, device):
            return work(torch.device(device))
    except Exception as error:
        if not (is_gpu(device) and is_out_of_memory(error)):
            raise
    # Out of the handler, whose error holds the tensors that filled the memory.
    release_memory(device)
    with lent(model, "cpu"):
        return work(torch.device("cpu"))
