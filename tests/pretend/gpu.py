"""A GPU that is none: torch takes its tensors for those of another device, but they lie in this machine's memory.

What CUDA refuses is refused: operations on tensors of two devices, a generator of the other device, operations that
have no kernel for CUDA, NumPy's hand on the memory. Whatever runs gives the numbers of the CPU, and a program can be
compared with itself. Half precision, speed, and what a GPU does while nobody waits for it are not pretended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
#: A GPU's tensor may be indexed from the host, not the other way round.
_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
#: Kernels that serve every device.
_EVERYWHERE = ("CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")


class PretendTensor(Tensor):
    """A tensor that says it lies on the GPU; `inner` is where its numbers are."""

    inner: Tensor

    # Called by torch at every operation on it, instead of a kernel.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendTensor:
        made: PretendTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"PretendTensor({self.inner!r})"

    def tolist(self) -> Any:
        """Returns the numbers: torch itself refuses to for subclasses, but not for a GPU's tensors."""
        return self.inner.tolist()


@contextmanager
def pretended_gpu() -> Iterator[str]:
    """Plugs the GPU in for a while and gives its name; once in a process, which it marks for good."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(lambda operation, *args, **kwargs: _run(operation, args, kwargs), "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    literals = {name: _literal(getattr(torch, name)) for name in ("tensor", "as_tensor")}
    with _Factories(), patch.multiple(torch, **literals):
        yield NAME


def _run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the inner tensors, if a GPU would."""
    given = [item for item in _items([*args, *kwargs.values()]) if isinstance(item, Tensor)]
    here = [item for item in given if isinstance(item, PretendTensor)]
    asked = kwargs.get("device")
    on_gpu = bool(here) if asked is None else torch.device(asked).type == NAME
    if not (here or on_gpu):
        return operation(*args, **kwargs)
    if here:
        _require_one_device(operation, given)
    if on_gpu:
        _require_kernel(operation.name())
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type == "cpu":
            raise RuntimeError(f"{operation}: Expected a {NAME!r} device type for generator but found 'cpu'")
    plain = {name: False if name == "pin_memory" else _inner(value) for name, value in kwargs.items()}
    if asked is not None:
        plain["device"] = torch.device("cpu")
    result = operation(*(_inner(item) for item in args), **plain)
    # What an operation changes in place or hands through is the tensor that was given.
    return _wrapped(result, {id(item.inner): item for item in here}) if on_gpu else result


def _items(values: Iterable[Any]) -> Iterator[Any]:
    """Yields values, and those in lists among them."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _items(value)
        else:
            yield value


def _inner(value: Any) -> Any:
    if isinstance(value, PretendTensor):
        return value.inner
    return type(value)(map(_inner, value)) if isinstance(value, list | tuple) else value


def _wrapped(value: Any, known: dict[int, PretendTensor]) -> Any:
    if isinstance(value, Tensor):
        return known[id(value)] if id(value) in known else PretendTensor(value)
    return type(value)(_wrapped(item, known) for item in value) if isinstance(value, list | tuple) else value


def _require_one_device(operation: Any, given: list[Tensor]) -> None:
    if operation in _COPIES or (operation in _INDEXING and isinstance(given[0], PretendTensor)):
        return
    if any(item.dim() > 0 and not isinstance(item, PretendTensor) for item in given):
        raise RuntimeError(f"{operation}: Expected all tensors to be on the same device, {NAME}:0, found cpu")


@cache
def _require_kernel(name: str) -> None:
    """Refuses what CUDA has no kernel for; a torch without CUDA does not know."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if torch.version.cuda is not None and not any(has(name, key) for key in ("CUDA", *_EVERYWHERE)):
        raise NotImplementedError(f"Could not run {name!r} with arguments from the 'CUDA' backend.")


class _Factories(TorchDispatchMode):
    """Sees the operations that make tensors of nothing."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


def _literal(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns a function that makes tensors of numbers, which it did without an operation, taught about the GPU."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        tensor = make(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


class _Module:
    """What `torch.cuda` is for CUDA."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_device_name(self, device: Any = None) -> str:
        return "a pretended GPU"

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return 1 << 33, 1 << 34

    def empty_cache(self) -> None:
        pass

    def synchronize(self, device: Any = None) -> None:
        pass

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]
