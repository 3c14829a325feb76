"""Recorded operations: convolutions, linear layers, batch norms and additions of two streams, numbered as they run.

Dense and cut network run the same Python code, so the k-th recorded operation of one is that of the other. This is how
a value inside the cut network finds its dense counterpart. A network that runs other operations for another batch size
breaks the numbering; `ChainTap` notices, because it compares the tensors that an operation gets with those it expects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from autoprune.models.network import LayerCall
from autoprune.models.watching.dispatch import Interpreter

CONVOLUTIONS = frozenset({"aten::convolution", "aten::_convolution"})
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
#: An LSTM's layer in one direction, on a CPU.
RECURRENT_LAYER = "aten::mkldnn_rnn_layer"
_RECURRENT = frozenset({RECURRENT_LAYER, "aten::_cudnn_rnn", "aten::miopen_rnn"})
_ADDITIONS = frozenset({"aten::add", "aten::sub"})

#: Runs instead of a recorded operation: gets its function, positional and keyword arguments, returns its result.
Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
#: The same for batch norms, which gets the number of the operation first.
NormHandler = Callable[[int, Any, tuple[Any, ...], dict[str, Any]], Any]


def is_addition(base: str, args: tuple[Any, ...]) -> bool:
    """Returns whether an operation (name without the in-place underscore) adds or subtracts two streams.

    A bias is none: a linear layer adds its own in a further operation where its rows do not lie together. Tokens that
    are repeated for every image of a batch do not, those of one image do.
    """
    if base not in _ADDITIONS or len(args) != 2 or not all(isinstance(item, Tensor) for item in args):
        return False
    return bool(args[0].dim() == args[1].dim() > 0)


def is_recorded(name: str, args: tuple[Any, ...]) -> bool:
    """Returns whether an operation has a number."""
    return name in CONVOLUTIONS or name in LINEAR or name in NORMS or is_addition(name.removesuffix("_"), args)


class OperationTap(Interpreter):
    """Calls a handler in place of each chosen recorded operation.

    Args:
        handlers: {number of an operation: what runs instead}.
        norms: runs instead of every batch norm without a handler.
    """

    def __init__(self, handlers: Mapping[int, Handler], *, norms: NormHandler | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self._handlers = handlers
        self._norms = norms
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the handler of a recorded operation that has one, else the operation itself."""
        kwargs = kwargs or {}
        name = func._schema.name
        if not is_recorded(name, args):
            return func(*args, **kwargs)
        number, handler = self.operations, self._handlers.get(self.operations)
        self.operations += 1
        if handler is not None:
            return handler(func, args, kwargs)
        if self._norms is not None and name in NORMS:
            return self._norms(number, func, args, kwargs)
        return func(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation as it was called; `again` runs it anew, on weights that may have changed since.

    Attributes:
        func: the operation.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def again(self, first: Tensor | None = None) -> Any:
        """Returns the result of another run, with another first argument if one is given."""
        args = self.args if first is None else (first, *self.args[1:])
        return self.func(*args, **self.kwargs)


@dataclass(frozen=True, eq=False)
class LayerOperands:
    """What a convolution or linear layer is called on.

    Attributes:
        input: (B, n, *) or (rows, n).
        weight: (o, n, *); a view of the parameter where the operation gets its transpose.
        bias: (o,) or None.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None


def linear_operands(name: str, args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns rows, matrix and bias of an operation in `LINEAR`; the matrix of `aten::linear` is transposed."""
    if name == "aten::addmm":
        return args[1], args[2], args[0]
    return args[0], args[1], args[2] if name == "aten::linear" and len(args) > 2 else None


def recurrent_weights(name: str, args: tuple[Any, ...]) -> list[tuple[Tensor, int]]:
    """Returns (weight, number of its uses) of a recurrent layer that runs as one operation, none of any other.

    Elsewhere, in double precision for example, the same layer runs as linear ones.
    """
    if name not in _RECURRENT:
        return []
    # Behind the two weights of a layer stand its biases, without these zeros of the size of the weights.
    weights = args[1] if name != RECURRENT_LAYER else args[1:3]
    return [(weight, args[0].shape[:-1].numel()) for weight in weights if weight.dim() == 2]


def layer_operands(func: Any, args: tuple[Any, ...]) -> LayerOperands | None:
    """Returns the operands of a convolution or linear layer, None for any other operation."""
    name = func._schema.name
    if name in CONVOLUTIONS:
        return LayerOperands(args[0], args[1], args[2])
    if name in LINEAR:
        rows, matrix, bias = linear_operands(name, args)
        return LayerOperands(rows, matrix if name == "aten::linear" else matrix.t(), bias)
    return None


def operands_of(weight: Tensor, func: Any, args: tuple[Any, ...]) -> LayerOperands | None:
    """Returns the operands of an operation, None if it is not a call of the layer with this weight.

    Where a forward runs other operations on a batch than on one image, its numbers are those of others.
    """
    operands = layer_operands(func, args)
    if operands is None or weight.shape not in (operands.weight.shape, operands.weight.mT.shape):
        return None
    # In another precision it is a cast.
    same = operands.weight.data_ptr() == weight.data_ptr() or operands.weight.dtype != weight.dtype
    return operands if same else None


class ChainTap:
    """Follows one layer's chain (layer, batch norm, addition) through a forward and checks that it is the traced one.

    Attributes:
        call: the traced call.
        layer: the layer's operation, once it has run.
        norm: the batch norm's, once it has run.
        broken: whether an operation was met that is not the traced one.
        finished: whether the end of the chain was reached.
    """

    def __init__(self, call: LayerCall, weight: Tensor) -> None:
        self.call = call
        self.layer: Operation | None = None
        self.norm: Operation | None = None
        self.broken = False
        self.finished = False
        self._weight = weight
        self._last: Tensor | None = None

    def handlers(self) -> dict[int, Handler]:
        """Returns what to run in place of the operations of the chain."""
        found: dict[int, Handler] = {self.call.call: self._at_layer}
        if self.call.norm_call is not None:
            found[self.call.norm_call] = self._at_norm
        if self.call.joins:
            found[self.call.target] = self._at_join
        return found

    def begin(self, operands: LayerOperands) -> bool:
        """Takes what the layer is about to read; returns whether it is what was expected."""
        raise NotImplementedError

    def output(self, layer: Operation) -> Tensor:
        """Returns what the layer hands on."""
        result: Tensor = layer.again()
        return result

    def normed(self, norm: Operation) -> Any:
        """Returns what the batch norm returns."""
        return norm.again()

    def end(self, value: Tensor) -> Tensor:
        """Takes the value at the end of a chain without addition; returns what to put in its place."""
        raise NotImplementedError

    def join(self, addition: Operation) -> Tensor:
        """Runs the addition of the other stream that ends the chain; returns its result."""
        raise NotImplementedError

    def _at_layer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = operands_of(self._weight, func, args)
        self._last, self.finished = None, False
        self.layer, self.norm = Operation(func, args, kwargs), None
        if operands is None or not self.begin(operands):
            return self._give_up(func, args, kwargs)
        return self._link(self.output(self.layer), last=self.call.target == self.call.call)

    def _at_norm(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._last is None or args[0] is not self._last or func._schema.name not in NORMS:
            return self._give_up(func, args, kwargs)
        self.norm = Operation(func, args, kwargs)
        out = self.normed(self.norm)
        last = self.call.target == self.call.norm_call
        return (self._link(out[0], last=last), *out[1:]) if isinstance(out, tuple) else self._link(out, last=last)

    def _at_join(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        addition = is_addition(func._schema.name.removesuffix("_"), args)
        if self._last is None or not addition or args[0 if self.call.first_operand else 1] is not self._last:
            return self._give_up(func, args, kwargs)
        self._last, self.finished = None, True
        return self.join(Operation(func, args, kwargs))

    def _link(self, value: Tensor, *, last: bool) -> Tensor:
        self.finished = last
        self._last = None if last else value
        return self.end(value) if last else value

    def _give_up(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.broken, self._last = True, None
        return func(*args, **kwargs)
