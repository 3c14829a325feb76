"""The precision in which a network is compared with a cut one: double, or its own where its forward refuses that.

Equality in double precision is a matter of 1e-12, so that nothing is left to judge. A forward that casts to single or
half precision, or makes tensors of its own, would leave it: such casts are made casts to double instead.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.models.dispatch import Interpreter

Found = TypeVar("Found")
_NARROW = frozenset({torch.float32, torch.float16, torch.bfloat16})


class InDouble(Interpreter):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """Keeps a forward on double weights and images in double precision, whatever it casts to."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation in double where it asks for less, or meets a tensor in less, such as a plain attribute."""
        kwargs = kwargs or {}
        if kwargs.get("dtype") in _NARROW:
            kwargs = {**kwargs, "dtype": torch.float64}
        types_met = [leaf.dtype for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if torch.float64 in types_met and not _NARROW.isdisjoint(types_met) and not func._schema.is_mutable:
            args, kwargs = _widened(args), _widened(kwargs)
        out = func(*args, **kwargs)
        # Zeros, say: in torch's default precision unless another is asked for.
        return out if types_met else _widened(out)


def _widened(values: Any) -> Any:
    return tree_map(lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.dtype in _NARROW else leaf, values)


@dataclass(frozen=True, slots=True)
class Precision:
    """How two networks are compared.

    Attributes:
        dtype: of weights and images.
        tolerance: largest relative deviation that counts as equal: rounding of differently ordered sums.
    """

    dtype: torch.dtype
    tolerance: float

    def of(self, model: nn.Module) -> nn.Module:
        """Returns the network, changed in place to this precision."""
        return model.double() if self.dtype is torch.float64 else model.float()

    def kept(self) -> AbstractContextManager[Any]:
        """Returns what forwards run under so that they stay in it."""
        if self.dtype is not torch.float64:
            return nullcontext()
        return InDouble()  # type: ignore[no-untyped-call]  # likewise


DOUBLE = Precision(torch.float64, 1e-6)
#: Where a forward refuses double precision. Rounding comes to 1e-5 in deep networks, wrong cuts to more than 1e-2.
SINGLE = Precision(torch.float32, 1e-3)


def in_widest(run: Callable[[Precision], Found]) -> Found:
    """Returns what a comparison finds in double precision, in single where a forward refuses that.

    Raises:
        Exception: what it raises in single precision.
    """
    try:
        return run(DOUBLE)
    except Exception:  # a custom operation without a kernel for doubles, say
        return run(SINGLE)
