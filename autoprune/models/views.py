"""Which element of which parameter each element of a tensor comes from, where a forward moves parameters about.

A bias table that is indexed, viewed and permuted before it meets the attention scores, or a scale that is clamped and
exponentiated first, still belongs to channels: its axis follows them. Moves are followed exactly, by applying them to
positions; elementwise operations keep the positions, and whatever constants they bring in are left to verification.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.models.labels import compact
from autoprune.models.records import Call

#: Larger parameters (4 million elements, 32 MiB of positions) are weights of layers, which nobody moves about.
_LARGEST = 1 << 22


@dataclass(frozen=True, eq=False)
class ParameterAxis:
    """An axis of a parameter that a dimension of another tensor runs along.

    Attributes:
        parameter: the parameter.
        axis: its dimension.
        order: (n,) the position along the other tensor's dimension at which each position of the axis is found.
    """

    parameter: Tensor
    axis: int
    order: Tensor


class ParameterViews:
    """Follows parameters through moves and elementwise operations.

    Args:
        known: returns whether a tensor is a parameter or buffer of the model.
    """

    def __init__(self, known: Callable[[object], bool]) -> None:
        self._known = known
        #: {tensor: (parameter, flat position in it of every element, in the tensor's shape)}
        self._places: MutableMapping[Tensor, tuple[Tensor, Tensor]] = WeakIdKeyDictionary()

    def place(self, tensor: object) -> tuple[Tensor, Tensor] | None:
        """Returns the parameter that a tensor comes from, and every element's flat position in it."""
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return None
        if self._known(tensor):
            if tensor.numel() > _LARGEST or tensor.dim() == 0:
                return None
            return tensor, torch.arange(tensor.numel()).reshape(tensor.shape)
        return self._places.get(tensor)

    def move(self, call: Call) -> None:
        """Follows an operation that moves the elements of its first argument."""
        found = self.place(call.args[0]) if call.args else None
        if found is None:
            return
        source = call.args[0]
        if call.name in ("aten::_to_copy", "aten::clone"):
            moved: Any = found[1]
        else:
            arguments = tree_map(lambda leaf: found[1] if leaf is source else leaf, (call.args, dict(call.kwargs)))
            moved = call.func(*arguments[0], **arguments[1])
        results = [moved] if isinstance(moved, Tensor) else list(moved)
        for result, positions in zip(call.results, results, strict=True):
            self._places[result] = (found[0], positions)

    def compute(self, call: Call) -> None:
        """Follows an elementwise operation on a parameter and constants."""
        found = [(leaf, place) for leaf in call.operands if (place := self.place(leaf)) is not None]
        if len(found) == 1:
            for result in call.results:
                if result.shape == found[0][0].shape and not self._known(result):
                    self._places[result] = found[0][1]

    def axis(self, tensor: Tensor, dim: int) -> ParameterAxis | None:
        """Returns the axis of a parameter whose positions are those of the tensor along `dim`, each once; or None."""
        if self._known(tensor):
            return ParameterAxis(tensor, dim, torch.arange(tensor.shape[dim]))
        found = self.place(tensor)
        if found is None:
            return None
        parameter, positions = found
        for axis, extent in enumerate(parameter.shape):
            stride = parameter.shape[axis + 1 :].numel()
            coordinates = compact(positions // stride % extent)
            varies = [other for other, size in enumerate(coordinates.shape) if size > 1]
            if varies == [dim] and coordinates.numel() == extent:
                order = coordinates.flatten().argsort()
                if torch.equal(coordinates.flatten()[order], torch.arange(extent)):
                    return ParameterAxis(parameter, axis, order)
        return None
