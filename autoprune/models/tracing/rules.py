"""What each kind of operation does to channel labels.

Four kinds cover nearly every network: layers (a weight consumes one channel axis and produces another), pointwise
operations (equal positions are tied), data movement (labels move with the data), and operations that treat every
channel alike (pooling, resizing); the last two are in movement.py. Anything else freezes the channels that it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autoprune.models.network import LayerKind, Role
from autoprune.models.tracing.indexing import INDEX_RULES
from autoprune.models.tracing.labels import FIXED, compact, spread
from autoprune.models.tracing.movement import (
    DATA_RULES,
    MOVES,
    UNLABELLED,
    channel_vector,
    computed_layer,
    freeze_inputs,
    meet_unlabelled,
    operations,
)
from autoprune.models.tracing.products import PRODUCT_RULES
from autoprune.models.tracing.vision import DEFORMABLE, VISION_RULES, deformable_convolution
from autoprune.models.watching.operations import (
    CONVOLUTIONS,
    LINEAR,
    NORMS,
    RECURRENT_LAYER,
    is_addition,
    linear_operands,
    recurrent_weights,
)
from autoprune.models.watching.records import Call, CallRecord

if TYPE_CHECKING:
    from autoprune.models.tracing.tracer import LabelTracer

_TRANSPOSES = frozenset({"aten::t", "aten::transpose", "aten::permute"})
#: Pointwise operations that a release of torch did not tag so, by their names without the underscore.
_LIKE_POINTWISE = frozenset(
    operations("""
    relu leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid softplus softshrink hardshrink threshold
    sigmoid tanh log_sigmoid_forward prelu _prelu_kernel copy dropout native_dropout clamp clamp_min
    clamp_max rsub masked_fill where
    """)
)
#: Tagged pointwise, but they move data.
_NOT_POINTWISE = frozenset({"aten::clone", "aten::_to_copy"})
_RECTIFIERS = frozenset({"aten::relu", "aten::relu_"})


def apply_rule(tracer: LabelTracer, call: Call) -> None:
    """Updates the tracer for one operation that has just run."""
    tracer.see(call)
    extends = _interpret(tracer, call)
    if call.name in _RECTIFIERS:
        tracer.rectify(call.args[0], in_place=call.name.endswith("_"))
        return
    for leaf in call.operands:
        tracer.read_chain(leaf, extends)


def _interpret(tracer: LabelTracer, call: Call) -> CallRecord | None:
    """Applies the rule of an operation; returns the chain that it extends, if any."""
    layer_rule = _LAYER_RULES.get(call.name)
    if layer_rule is not None:
        return layer_rule(tracer, call)
    if call.name == DEFORMABLE:
        deformable_convolution(tracer, call)
        return None
    for weight, uses in recurrent_weights(call.name, call.args):
        tracer.count_derived(weight, uses)
    if call.name == RECURRENT_LAYER:
        _recurrent(tracer, call)
        return None
    if call.name in _TRANSPOSES and tracer.parameter(call.out) is not None:
        return None
    if call.base not in _NOT_POINTWISE and (torch.Tag.pointwise in call.func.tags or call.base in _LIKE_POINTWISE):
        tracer.views.compute(call)
        return _pointwise(tracer, call)
    if call.name in MOVES:
        tracer.views.move(call)
    if any(tracer.labels(leaf) is not None for leaf in call.operands):
        rule = _DATA_RULES.get(call.name)
        if rule is not None:
            rule(tracer, call)
        elif call.name not in UNLABELLED:
            freeze_inputs(tracer, call.operands, f"no channel rule for {call.name}")
    return None


def _tie_rows(tracer: LabelTracer, labels: Tensor, reason: str) -> None:
    """Ties the rows of a (rows, n) label matrix: position j of each row is cut in all rows or in none."""
    for row in labels[1:]:
        tracer.atoms.tie(labels[0], row, reason)


def _convolution(tracer: LabelTracer, call: Call) -> None:
    image, weight, bias = call.args[0], tracer.parameter(call.args[1]), call.args[2]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    operation = tracer.operation()
    positions = (image if transposed else call.out).shape[2:].numel() * image.shape[0]
    if weight is None:
        freeze_inputs(tracer, call.operands, "feeds a convolution whose weight is computed in the forward")
        computed_layer(tracer, call.args[1], positions)
        return
    read = channel_vector(tracer, image, 1, f"{tracer.name(weight)} reads channels that are mixed with positions")
    if groups > 1 and groups == image.shape[1]:
        written = _depthwise(tracer, weight, read, transposed=transposed)
    elif groups > 1:
        written = _grouped(tracer, weight, read, groups=groups, transposed=transposed)
    else:
        out_axis, in_axis = (1, 0) if transposed else (0, 1)
        read = None if read is None else tracer.axis(weight, in_axis, read, Role.CONSUMES)
        written = tracer.produced(weight, out_axis)
    kind = LayerKind.TRANSPOSED if transposed else LayerKind.CONV
    record = CallRecord(weight, kind, groups, operation, read, written, uses=positions, target=operation)
    # Nothing can be solved for by way of a cast.
    record.forked = call.args[1].data_ptr() != weight.data_ptr()
    _finish_layer(tracer, call.out, record, bias, dim=1)


def _depthwise(tracer: LabelTracer, weight: Tensor, read: Tensor | None, *, transposed: bool) -> Tensor:
    """Returns the output labels of a depthwise convolution: each input channel has its own filters, which follow it.

    A transposed one has them side by side along the second axis of its weight.
    """
    if read is None:
        written = tracer.produced(weight, 0)
        tracer.atoms.freeze(written, f"{tracer.name(weight)} is a depthwise convolution of fixed channels")
        return written.repeat_interleave(weight.shape[1]) if transposed else written
    written = read.repeat_interleave(weight.shape[1] if transposed else weight.shape[0] // len(read))
    tracer.axis(weight, 0, read if transposed else written, Role.FOLLOWS)
    return written


def _grouped(tracer: LabelTracer, weight: Tensor, read: Tensor | None, *, groups: int, transposed: bool) -> Tensor:
    """Returns the output labels of a grouped convolution: the same channels are cut in every group."""
    if read is not None:
        reason = f"{tracer.name(weight)} is a grouped convolution with a fixed input in it"
        _tie_rows(tracer, read.reshape(groups, -1), reason)
        # A transposed one has the inputs of all groups along its first axis, and the outputs of each along its second.
        tracer.axis(weight, *((0, read) if transposed else (1, read[: weight.shape[1]])), Role.CONSUMES)
    if transposed:
        return tracer.produced(weight, 1).repeat(groups)
    written = tracer.produced(weight, 0)
    _tie_rows(tracer, written.reshape(groups, -1), "")
    return written


def _linear(tracer: LabelTracer, call: Call) -> None:
    rows, matrix, bias = linear_operands(call.name, call.args)
    uses = rows.shape[:-1].numel()
    operation = tracer.operation()
    weight = tracer.parameter(matrix)
    if weight is None and tracer.origins.is_layer(rows, matrix):
        freeze_inputs(tracer, call.operands, "feeds a linear layer whose weight is computed in the forward")
        computed_layer(tracer, matrix, uses)
        return
    if weight is None:
        freeze_inputs(tracer, call.operands, "feeds a matrix product whose right side is no layer's weight")
        return
    # addmm gets the transpose of an nn.Linear's weight; a weight used as it is has its input axis first.
    straight = (call.name == "aten::linear") == tracer.origins.transposed(matrix)
    out_axis, in_axis = (1, 0) if straight else (0, 1)
    read = channel_vector(tracer, rows, -1, f"{tracer.name(weight)} reads features that are mixed with positions")
    if read is not None:
        read = tracer.axis(weight, in_axis, read, Role.CONSUMES)
    written = tracer.produced(weight, out_axis)
    kind = LayerKind.TRANSPOSED if straight else LayerKind.LINEAR
    record = CallRecord(weight, kind, 1, operation, read, written, uses=uses, target=operation)
    # Scaled by alpha or beta; or fed with positions rather than images, so there are no rows of an image to solve for;
    # or by way of a cast.
    cast = matrix.data_ptr() != weight.data_ptr()
    record.forked = bool(call.kwargs) or not tracer.sees_image(rows) or cast
    _finish_layer(tracer, call.out, record, bias, dim=call.out.dim() - 1)


def _finish_layer(tracer: LabelTracer, out: Tensor, record: CallRecord, bias: Tensor | None, *, dim: int) -> None:
    """Labels a layer's output, lets its bias follow, and begins its chain."""
    tracer.label(out, spread(record.output, out.shape, dim))
    if bias is not None and tracer.parameter(bias) is bias:
        tracer.axis(bias, 0, record.output, Role.FOLLOWS)
        record.bias = bias
    elif bias is not None and tracer.follow(bias, 0, record.output):
        record.forked = True
    elif bias is not None:
        tracer.atoms.freeze(record.output, f"{tracer.name(record.weight)} has a bias that is computed in the forward")
        freeze_inputs(tracer, [bias], "is added as the bias of a layer")
        record.forked = True
    tracer.start_chain(out, record)


def _recurrent(tracer: LabelTracer, call: Call) -> None:
    """An LSTM reads channels at every step with the same columns of its weight; what it puts out stays."""
    read = channel_vector(tracer, call.args[0], -1, "a recurrent layer reads features that are mixed with positions")
    weight = tracer.parameter(call.args[1])
    if read is not None and weight is not None:
        tracer.axis(weight, 1, read, Role.CONSUMES)
    elif read is not None:
        tracer.atoms.freeze(read, "feeds a recurrent layer whose weight is computed in the forward")
    freeze_inputs(tracer, call.operands[1:], "is a state of a recurrent layer")


def _batch_norm(tracer: LabelTracer, call: Call) -> CallRecord | None:
    image, parameters = call.args[0], [item for item in call.args[1:5] if isinstance(item, Tensor)]
    operation = tracer.operation()
    read = channel_vector(tracer, image, 1, "batch norm over channels that are mixed with positions")
    known = [item for item in parameters if tracer.parameter(item) is item]
    if known:
        tracer.norm_calls[id(known[0])].append(operation)
    if read is None:
        return None
    for item in parameters:
        if not tracer.follow(item, 0, read):
            tracer.atoms.freeze(read, "batch norm whose parameters are computed in the forward")
    tracer.label(call.results[0], spread(read, call.results[0].shape, 1))
    record = tracer.chain(image)
    # Only a norm with scale, shift and both statistics of its own can take a layer's new scale over.
    if record is None or record.settled or record.norm is not None or len(known) < 4:
        return None
    record.norm, record.norm_call, record.target = call.args[1], operation, operation
    tracer.extend_chain(record, call.results[0])
    return record


def _pointwise(tracer: LabelTracer, call: Call) -> CallRecord | None:
    joins = is_addition(call.base, call.args)
    # Counted without a look at labels, so that the cut network's additions have the same numbers.
    operation = tracer.operation() if joins else -1
    labelled = [item for item in call.operands if tracer.labels(item) is not None]
    if not labelled or not call.results:
        return None
    labels = _broadcast(tracer, call, labelled)
    for result in call.results:
        tracer.label(result, labels.expand(result.shape) if labels is not None else None)
    if not joins or len(labelled) < 2:
        return None
    if labels is not None and all(map(tracer.sees_image, labelled)):
        tracer.atoms.couple(labels)
    return _join(tracer, call, operation) if not call.kwargs else None


def _join(tracer: LabelTracer, call: Call, operation: int) -> CallRecord | None:
    """Extends a chain by the addition of another stream; of two chains the one with more inputs is extended."""
    left, right = call.args
    if call.base != "aten::add" or left.shape != right.shape or left is right:
        return None
    open_chains = [record for record in map(tracer.chain, call.args) if record is not None and not record.settled]
    open_chains = [record for record in open_chains if not record.joins]
    if not open_chains:
        return None
    # The block's last convolution can correct more than a projection shortcut can, whichever ran last.
    record = max(open_chains, key=lambda item: item.weight.shape[1:].numel())
    record.first_operand = tracer.chain(left) is record
    record.joins, record.target = True, operation
    tracer.extend_chain(record, call.results[0])
    return record


def _broadcast(tracer: LabelTracer, call: Call, labelled: list[Tensor]) -> Tensor | None:
    """Ties the labels of all operands position by position; returns those of the result."""
    out, merged = call.results[0], None
    reason = f"{call.plain} with a tensor of fixed width"
    for item in labelled:
        labels = tracer.labels(item)
        assert labels is not None
        if item.dim() < out.dim():
            labels = labels.reshape([1] * (out.dim() - item.dim()) + list(labels.shape))
        small = compact(labels)
        if small.numel() == 1 and len(labelled) > 1 and out.numel() > item.numel():
            # A single channel broadcast over many (spatial attention): it can never be cut, they still can.
            tracer.atoms.freeze(small, "a single channel broadcast over others")
            continue
        if merged is None:
            merged = small
            continue
        left, right = torch.broadcast_tensors(merged, small)  # type: ignore[no-untyped-call]  # torch's
        tracer.atoms.tie(left.reshape(-1), right.reshape(-1), reason)
        merged = torch.where(left == FIXED, right, left)
    if merged is None:
        return None
    for item in call.operands:
        if tracer.labels(item) is None and item.numel() > 1:
            meet_unlabelled(tracer, merged, item, reason)
    return merged


_LayerRule = Callable[[Any, Call], CallRecord | None]
_LAYER_RULES: dict[str, _LayerRule] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(LINEAR, _linear),
    **dict.fromkeys(NORMS, _batch_norm),
}
_DATA_RULES = {**DATA_RULES, **PRODUCT_RULES, **INDEX_RULES, **VISION_RULES}
