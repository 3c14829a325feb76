"""Where the tensors of a forward come from: the image, or parameters and buffers alone.

Trace and count ask the same questions here, so that they cannot disagree about what a layer is: a product with a matrix
that is a parameter, or that was computed from parameters without a look at the image, as weight normalisation does.
Products of two activations, as in attention, are none.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.models.watching.operations import CONVOLUTIONS, LINEAR
from autoprune.models.watching.records import Call

#: What stands for all weights that are computed in the forward and have the size of no parameter.
COMPUTED = "computed in the forward.weight"

#: Operations that return a parameter as it is, in another precision (automatic mixed precision) or without gradient.
_SAME = frozenset({"aten::_to_copy", "aten::detach", "aten::alias"})

#: Values by identity of a tensor, dropped with it.
ByTensor: Callable[[], MutableMapping[Tensor, Any]] = WeakIdKeyDictionary


@dataclass
class TensorNames:
    """Parameters and buffers of a module by identity, with every name a shared one has."""

    names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    tensors: dict[int, Tensor] = field(default_factory=dict)
    by_name: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> TensorNames:
        """Returns the names of all parameters and buffers of the model."""
        known = cls()
        everything = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        for name, tensor in everything:
            known.names[id(tensor)] = (*known.names.get(id(tensor), ()), name)
            known.tensors[id(tensor)] = known.by_name[name] = tensor
        return known

    def __contains__(self, tensor: object) -> bool:
        return self.tensors.get(id(tensor)) is tensor

    def name(self, tensor: Tensor) -> str:
        """Returns the first qualified name of a parameter or buffer."""
        return self.names[id(tensor)][0]


class Origins:
    """Follows the image, and parameters through whatever is computed from them.

    Args:
        known: parameters and buffers of the model.
    """

    def __init__(self, known: TensorNames) -> None:
        self._known = known
        self._seen = ByTensor()
        self._views = ByTensor()
        self._derived = ByTensor()

    def show(self, image: Tensor) -> None:
        """Says which tensor the image is."""
        self._seen[image] = True

    def see(self, call: Call) -> None:
        """Notes what depends on the image, and what an operation makes of a parameter."""
        if any(leaf in self._seen for leaf in call.operands):
            for result in call.results:
                self._seen[result] = True
        viewed = self.parameter(call.args[0]) if call.args else None
        if viewed is not None and call.name in _SAME:
            self._views[call.out] = (viewed, self.transposed(call.args[0]))
        elif viewed is not None and viewed.dim() == 2 and _swaps_axes(call):
            self._views[call.out] = (viewed, not self.transposed(call.args[0]))
        if call.name not in CONVOLUTIONS and call.name not in LINEAR:
            self._derive(call)

    def _derive(self, call: Call) -> None:
        for result in call.results:
            alike = [leaf for leaf in call.operands if leaf.numel() == result.numel()]
            sources = [source for leaf in alike if (source := self.source(leaf)) is not None]
            # A weight is derived from its parameter rather than from the mask that it is multiplied with.
            sources.sort(key=lambda source: not isinstance(source, nn.Parameter))
            if sources and result not in self._known:
                self._derived[result] = sources[0]

    def sees_image(self, tensor: Tensor) -> bool:
        """Returns whether a tensor depends on the image."""
        return tensor in self._seen

    def parameter(self, tensor: object) -> Tensor | None:
        """Returns the tensor if it is a parameter or buffer of the model, or the one it is a cast or transpose of."""
        if not isinstance(tensor, Tensor):
            return None
        if tensor in self._known:
            return tensor
        found: tuple[Tensor, bool] | None = self._views.get(tensor)
        return None if found is None else found[0]

    def transposed(self, tensor: Tensor) -> bool:
        """Returns whether a tensor is the transpose of a two-dimensional parameter."""
        found: tuple[Tensor, bool] | None = self._views.get(tensor)
        return found is not None and found[1]

    def source(self, tensor: Tensor) -> Tensor | None:
        """Returns the parameter or buffer of the same size that a tensor is or was computed from, the first of them."""
        if tensor in self._known:
            return tensor
        found: Tensor | None = self._derived.get(tensor)
        return found

    def is_layer(self, rows: Tensor, matrix: Tensor) -> bool:
        """Returns whether rows @ matrix is a linear layer: the matrix a parameter, or computed from such alone.

        A product of two computed matrices is the computation of a weight.
        """
        if self.parameter(matrix) is not None:
            return True
        return self.sees_image(rows) and not self.sees_image(matrix)


def _swaps_axes(call: Call) -> bool:
    """Returns whether an operation on a matrix returns its transpose."""
    if call.name == "aten::permute":
        return [dim % 2 for dim in call.args[1]] == [1, 0]
    return call.name == "aten::t" or (call.name == "aten::transpose" and (call.args[1] - call.args[2]) % 2 == 1)
