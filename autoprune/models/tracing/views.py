"""Which element of which parameter each element of a tensor comes from, where a forward moves parameters about.

A bias table that is indexed, viewed and permuted before it meets the attention scores, or a scale that is clamped and
exponentiated first, still belongs to channels: its axis follows them. Moves are followed exactly, by applying them to
positions; elementwise operations keep the positions, and whatever constants they bring in are left to verification.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.models.tracing.labels import compact
from autoprune.models.watching.records import Call

#: Larger parameters (4 million elements, 32 MiB of positions) are weights of layers, which nobody moves about.
_LARGEST = 1 << 22


@dataclass(frozen=True, eq=False)
class ParameterAxis:
    """An axis of a parameter that a dimension of another tensor runs along.

    Attributes:
        parameter: the parameter.
        axis: its dimension.
        order: (n, k) the positions along the other tensor's dimension at which each position of the axis is found: one,
            or as many as it is repeated.
    """

    parameter: Tensor
    axis: int
    order: Tensor


_RESHAPES = frozenset({"aten::view", "aten::_unsafe_view", "aten::_reshape_alias"})
#: (parameter, flat position in it of every element, in the tensor's shape) of all that a tensor comes from.
_Places = tuple[tuple[Tensor, Tensor], ...]


class ParameterViews:
    """Follows parameters through moves and elementwise operations.

    Args:
        known: returns whether a tensor is a parameter or buffer of the model.
    """

    def __init__(self, known: Callable[[object], bool]) -> None:
        self._known = known
        self._places: MutableMapping[Tensor, _Places] = WeakIdKeyDictionary()

    def places(self, tensor: object) -> _Places:
        """Returns the parameters that a tensor comes from, and every element's flat position in each."""
        if not isinstance(tensor, Tensor) or not (tensor.is_floating_point() or tensor.dtype is torch.bool):
            return ()
        if self._known(tensor):
            if tensor.numel() > _LARGEST or tensor.dim() == 0:
                return ()
            return ((tensor, torch.arange(tensor.numel()).reshape(tensor.shape)),)
        return self._places.get(tensor, ())

    def move(self, call: Call) -> None:
        """Follows an operation that moves the elements of its first argument."""
        found = self.places(call.args[0]) if call.args else ()
        moved = [(parameter, _moved(call, positions)) for parameter, positions in found]
        for number, result in enumerate(call.results if found else ()):
            self._places[result] = tuple((parameter, results[number]) for parameter, results in moved)

    def compute(self, call: Call) -> None:
        """Follows an elementwise operation on constants and parameters, such as the buffers of a frozen batch norm."""
        found = [(leaf, places) for leaf in call.operands if (places := self.places(leaf))]
        for result in call.results:
            if found and not self._known(result):
                everywhere = ((leaf, at.expand(result.shape)) for _, places in found for leaf, at in places)
                self._places[result] = tuple(everywhere)

    def axes(self, tensor: Tensor, dim: int) -> tuple[ParameterAxis, ...]:
        """Returns the axes of the parameters that a tensor comes from whose positions are those along `dim`, each once.

        None where it comes from no parameter, or from one in any other way.
        """
        if self._known(tensor):
            return (ParameterAxis(tensor, dim, torch.arange(tensor.shape[dim])[:, None]),)
        found = [self._axis(parameter, positions, dim) for parameter, positions in self.places(tensor)]
        fitting = tuple(axis for axis in found if axis is not None)
        return fitting if len(fitting) == len(found) else ()

    def _axis(self, parameter: Tensor, positions: Tensor, dim: int) -> ParameterAxis | None:
        for axis, extent in enumerate(parameter.shape):
            stride = parameter.shape[axis + 1 :].numel()
            coordinates = compact(compact(positions) // stride % extent)
            varies = [other for other, size in enumerate(coordinates.shape) if size > 1]
            if varies == [dim] and coordinates.numel() % extent == 0:
                order = coordinates.flatten().argsort(stable=True).reshape(extent, -1)
                if bool((coordinates.flatten()[order] == torch.arange(extent)[:, None]).all()):
                    return ParameterAxis(parameter, axis, order)
        return None


def _moved(call: Call, positions: Tensor) -> list[Tensor]:
    """Returns what an operation makes of the positions in place of its first argument."""
    if call.name in ("aten::_to_copy", "aten::clone"):
        return [positions]
    if call.name in _RESHAPES:  # a view of the parameter need not be one of its positions, laid out otherwise
        return [positions.reshape(call.out.shape)]
    source = call.args[0]
    arguments = tree_map(lambda leaf: positions if leaf is source else leaf, (call.args, dict(call.kwargs)))
    moved = call.func(*arguments[0], **arguments[1])
    return [moved] if isinstance(moved, Tensor) else list(moved)
