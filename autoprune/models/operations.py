"""Recorded operations: convolutions, linear layers, batch norms and additions of two streams, numbered as they run.

Dense and cut network run the same Python code, so the k-th recorded operation of one is that of the other. This is how
a value inside the cut network finds its dense counterpart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CONVOLUTIONS = frozenset({"aten::convolution", "aten::_convolution", "aten::mkldnn_convolution"})
LINEAR = frozenset({"aten::addmm", "aten::mm", "aten::linear"})
NORMS = frozenset(
    {
        "aten::native_batch_norm",
        "aten::_native_batch_norm_legit_no_training",
        "aten::_native_batch_norm_legit",
        "aten::cudnn_batch_norm",
        "aten::miopen_batch_norm",
        "aten::_batch_norm_with_update",
        "aten::_batch_norm_no_update",
    }
)
_ADDITIONS = frozenset({"aten::add", "aten::sub"})

#: Runs instead of a recorded operation: gets its function, positional and keyword arguments, returns its result.
Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


def is_addition(base: str, args: tuple[Any, ...]) -> bool:
    """Returns whether an operation (name without the in-place underscore) adds or subtracts two tensors."""
    return base in _ADDITIONS and len(args) == 2 and all(isinstance(item, Tensor) and item.dim() > 0 for item in args)


def is_recorded(name: str, args: tuple[Any, ...]) -> bool:
    """Returns whether an operation has a number."""
    return name in CONVOLUTIONS or name in LINEAR or name in NORMS or is_addition(name.removesuffix("_"), args)


class OperationTap(TorchDispatchMode):
    """Calls a handler in place of each chosen recorded operation."""

    def __init__(self, handlers: Mapping[int, Handler]) -> None:
        super().__init__()
        self._handlers = handlers
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the handler of a recorded operation that has one, else the operation itself."""
        kwargs = kwargs or {}
        if not is_recorded(func._schema.name, args):
            return func(*args, **kwargs)
        handler = self._handlers.get(self.operations)
        self.operations += 1
        return func(*args, **kwargs) if handler is None else handler(func, args, kwargs)
