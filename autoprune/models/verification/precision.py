"""The precision in which a network is compared with a cut one: double, or its own where its forward refuses that.

Equality in double precision is a matter of 1e-12, so that nothing is left to judge. A forward that casts to single or
half precision, or makes tensors of its own, would leave it: such casts are made casts to double instead.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.models.watching.dispatch import Interpreter

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
        tolerance: relative deviation that counts as equal in every network: rounding of differently ordered sums.
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
#: Of single precision: numbers are rounded by at most half of it.
_EPSILON = torch.finfo(torch.float32).eps
#: Where the forward of the dense network refuses double precision. Outputs are themselves rounded, so that this much
#: always counts as equal; where rounding does more to a network, `allowed` says how much.
SINGLE = Precision(torch.float32, 16 * _EPSILON)
#: Whatever rounding does, more is wrong.
MOST_IN_SINGLE = 1e-3
#: How many times what `round_anew` does is allowed. Right cuts of nine networks of torchvision, from VGG-16 to
#: ResNet-152, Swin-T and ConvNeXt-T, came to 0.1 to 1.6 times, 36 cuts, 5e-6 of the outputs as a rule.
_TIMES = 10.0


def allowed(rounding: float) -> float:
    """Returns the relative deviation that counts as equal in single precision.

    Args:
        rounding: how far outputs move when every weight is rounded anew, relative to the largest.
    """
    return min(MOST_IN_SINGLE, max(SINGLE.tolerance, _TIMES * rounding))


def round_anew(model: nn.Module, generator: torch.Generator) -> None:
    """Moves every weight in place, by as much as single precision rounds it.

    To the outputs this does what sums in another order do, layer for layer (Higham, Accuracy and Stability of
    Numerical Algorithms, 2002, section 3.1: a computed dot product is the exact one of slightly moved factors).
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                moved = 1 + _EPSILON * torch.randn(tensor.shape, generator=generator).to(tensor.device)
                tensor.mul_(moved)
