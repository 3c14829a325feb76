"""Channel rules of indexing with tensors: `x[mask]`, `x[:, order]`, `x[rows] = y`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autoprune.models.tracing.labels import along, spread, varying_dims
from autoprune.models.tracing.movement import freeze_inputs
from autoprune.models.watching.records import Call

if TYPE_CHECKING:
    from autoprune.models.tracing.tracer import LabelTracer

_MASKS = (torch.bool, torch.uint8)


def picks_by_value(call: Call) -> bool:
    """Returns whether how much an operation returns depends on values and not on shapes alone."""
    if call.base in _INDEXED:
        return any(index is not None and index.dtype in _MASKS for index in call.args[1])
    return torch.Tag.dynamic_output_shape in call.func.tags or call.name == "torchvision::nms"


def _index(tracer: LabelTracer, call: Call) -> None:
    labels = tracer.labels(call.args[0])
    if labels is None:
        freeze_inputs(tracer, call.operands, "is used as an index")
        return
    if _indexed_dims(call.args[1]) & set(varying_dims(labels)):
        tracer.atoms.freeze(labels, "an index takes channels at fixed positions")
    tracer.label(call.out, call.func(labels, call.args[1]))


def _index_put(tracer: LabelTracer, call: Call) -> None:
    """Rows that are written take the channels of the rows that are already there."""
    target, indices, values = call.args[:3]
    before, written = tracer.labels(target), tracer.labels(values)
    for labels, owner in ((written, values), (before, target)):
        if labels is None:
            continue
        # Only dimensions behind the indexed ones line up from the right.
        dims = [dim - owner.dim() for dim in varying_dims(labels)]
        vector = along(labels, dims[0]) if len(dims) == 1 else None
        indexed = {dim - target.dim() for dim in _indexed_dims(indices)}
        if vector is None or vector.numel() != target.shape[dims[0]] or not max(indexed) < dims[0]:
            freeze_inputs(tracer, call.operands, "is written to fixed positions")
            return
        if written is not None and before is not None:
            other = along(before, dims[0])
            if other is None:
                freeze_inputs(tracer, call.operands, "is written over channels that are mixed with positions")
                return
            tracer.atoms.tie(other, vector, "is written into a tensor of fixed width")
        elif written is None and values.numel() > 1 and values.dim() >= -dims[0] and values.shape[dims[0]] > 1:
            tracer.atoms.freeze(labels, "is overwritten by a tensor of fixed width")
        tracer.label(call.out, spread(vector, target.shape, target.dim() + dims[0]))
        return


def _indexed_dims(indices: Sequence[Tensor | None]) -> set[int]:
    """Returns the dimensions that are indexed; a mask of several dimensions takes as many."""
    dims: set[int] = set()
    position = 0
    for index in indices:
        width = index.dim() if index is not None and index.dtype in _MASKS else 1
        if index is not None:
            dims.update(range(position, position + width))
        position += width
    return dims


_INDEXED = frozenset({"aten::index", "aten::index_put", "aten::_index_put_impl"})
#: {operation: its rule}, for operations of which at least one argument carries channels.
INDEX_RULES: dict[str, Callable[[Any, Call], None]] = {
    "aten::index": _index,
    "aten::index_put": _index_put,
    "aten::index_put_": _index_put,
}
