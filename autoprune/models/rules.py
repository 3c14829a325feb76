"""What each kind of operation does to channel labels.

Four kinds cover nearly every network: layers (a weight consumes one channel axis and produces another), pointwise
operations (equal positions are tied), data movement (labels move with the data), and operations that treat every
channel alike (pooling, resizing). Anything else freezes the channels that it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from autoprune.models.labels import FIXED, along, compact, spread, varying_dims
from autoprune.models.network import LayerKind, Role
from autoprune.models.operations import CONVOLUTIONS, LINEAR, NORMS, is_addition

if TYPE_CHECKING:
    from autoprune.models.tracing import CallRecord, LabelTracer

_MOVES = {
    "aten::view", "aten::_unsafe_view", "aten::reshape", "aten::permute", "aten::transpose", "aten::t", "aten::expand",
    "aten::slice", "aten::select", "aten::split", "aten::split_with_sizes", "aten::unbind", "aten::squeeze",
    "aten::unsqueeze", "aten::clone", "aten::contiguous", "aten::alias", "aten::detach", "aten::_to_copy", "aten::flip",
    "aten::roll", "aten::repeat", "aten::pixel_shuffle", "aten::pixel_unshuffle", "aten::native_channel_shuffle",
    "aten::channel_shuffle", "aten::index_select", "aten::unfold", "aten::lift_fresh", "aten::_reshape_alias",
}  # fmt: skip
_PER_CHANNEL = {
    "aten::max_pool2d_with_indices", "aten::avg_pool2d", "aten::_adaptive_avg_pool2d", "aten::adaptive_max_pool2d",
    "aten::upsample_nearest2d", "aten::upsample_bilinear2d", "aten::upsample_bicubic2d", "aten::_upsample_nearest_exact2d",
    "aten::reflection_pad2d", "aten::replication_pad2d", "aten::max_pool2d", "aten::adaptive_avg_pool2d",
    "aten::_upsample_bilinear2d_aa", "aten::avg_pool1d", "aten::mkldnn_max_pool2d", "aten::_adaptive_avg_pool3d",
}  # fmt: skip
_REDUCTIONS = {
    "aten::mean",
    "aten::sum",
    "aten::amax",
    "aten::amin",
    "aten::max",
    "aten::min",
    "aten::var",
    "aten::std",
}
_ALONG_DIM = {"aten::_softmax", "aten::_log_softmax", "aten::_safe_softmax", "aten::cumsum"}
_FACTORIES = {"aten::new_zeros", "aten::new_empty", "aten::new_ones", "aten::new_full", "aten::empty_like",
              "aten::zeros_like", "aten::ones_like"}  # fmt: skip
_LIKE_POINTWISE = {
    "aten::hardswish",
    "aten::copy",
    "aten::prelu",
    "aten::_prelu_kernel",
    "aten::dropout",
    "aten::native_dropout",
}
_WEIGHT_VIEWS = {"aten::t", "aten::transpose"}


def apply_rule(tracer: LabelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Updates the tracer for one operation that has just run."""
    name = func._schema.name
    base = name.removesuffix("_")
    extends = None
    if name in CONVOLUTIONS:
        _convolution(tracer, args, out)
    elif name in LINEAR:
        _linear(tracer, name, args, out)
    elif name in NORMS:
        extends = _batch_norm(tracer, args, out)
    elif name in _WEIGHT_VIEWS and (viewed := tracer.parameter(args[0])) is not None:
        if viewed.dim() == 2:
            tracer.view_of_parameter(out, viewed)
    elif _is_pointwise(func, base):
        extends = _pointwise(tracer, base, args, kwargs, out)
    elif not any(tracer.labels(leaf) is not None for leaf in tree_leaves((args, kwargs))):
        pass
    elif name in _MOVES or name in ("aten::cat", "aten::stack"):
        _move(tracer, func, args, kwargs, out)
    elif name == "aten::constant_pad_nd":
        _pad(tracer, args, out)
    elif name in _PER_CHANNEL:
        _per_channel(tracer, name, args, out)
    elif name in _REDUCTIONS:
        _reduce(tracer, name, args, out)
    elif name in _ALONG_DIM:
        _along_dim(tracer, name, args, out)
    elif name == "aten::native_layer_norm":
        _layer_norm(tracer, args, out)
    elif name not in _FACTORIES:
        _freeze_inputs(tracer, args, kwargs, f"no channel rule for {name}")
    if base == "aten::relu":
        tracer.rectify(args[0], in_place=name != base)
        return
    for leaf in tree_leaves((args, kwargs)):
        tracer.read_chain(leaf, extends)


def _is_pointwise(func: Any, base: str) -> bool:
    if base in ("aten::clone", "aten::_to_copy"):
        return False  # moves data; also tagged pointwise
    return torch.Tag.pointwise in func.tags or base in _LIKE_POINTWISE


def _freeze_inputs(tracer: LabelTracer, args: Any, kwargs: Any, reason: str) -> None:
    for leaf in tree_leaves((args, kwargs)):
        labels = tracer.labels(leaf)
        if labels is not None:
            tracer.atoms.freeze(labels, reason)


def _channel_vector(tracer: LabelTracer, tensor: Tensor, dim: int, reason: str) -> Tensor | None:
    """Returns the labels along the channel dimension; channels mixed with positions are frozen."""
    labels = tracer.labels(tensor)
    if labels is None:
        return None
    vector = along(labels, dim)
    if vector is None:
        tracer.atoms.freeze(labels, reason)
    return vector


def _tie_rows(tracer: LabelTracer, labels: Tensor, reason: str) -> None:
    """Ties the rows of a (rows, n) label matrix: position j of each row is cut in all rows or in none."""
    for row in labels[1:]:
        tracer.atoms.tie(labels[0], row, reason)


def _convolution(tracer: LabelTracer, args: tuple[Any, ...], out: Tensor) -> None:
    from autoprune.models.tracing import CallRecord

    image, weight, bias = args[0], tracer.parameter(args[1]), args[2]
    transposed, groups = bool(args[6]), int(args[8])
    operation = tracer.operation()
    if weight is None:
        _freeze_inputs(tracer, args[:1], {}, "feeds a convolution whose weight is computed in the forward")
        return
    name = tracer.name(weight)
    read = _channel_vector(tracer, image, 1, f"{name} reads channels that are mixed with positions")
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    width = out.shape[1]
    if groups > 1 and groups == image.shape[1] and not transposed:
        # Depthwise: each input channel has its own filters, which follow it.
        if read is None:
            return
        written = read.repeat_interleave(width // groups)
        tracer.axis(weight, 0, written, Role.FOLLOWS)
    else:
        if groups > 1 and read is not None:
            _tie_rows(tracer, read.reshape(groups, -1), f"{name} is a grouped convolution with a fixed input in it")
        if read is not None:
            per_group = read if transposed else read[: weight.shape[in_axis]]
            read_axis = tracer.axis(weight, in_axis, per_group, Role.CONSUMES)
            read = read_axis if groups == 1 else read
        if groups > 1 and transposed:
            _freeze_inputs(tracer, args[:1], {}, f"{name} is a grouped transposed convolution")
        written = tracer.produced(weight, out_axis)
        if groups > 1 and not transposed:
            _tie_rows(tracer, written.reshape(groups, -1), "")
        elif groups > 1:
            tracer.atoms.freeze(written, f"{name} is a grouped transposed convolution")
    if bias is not None and tracer.parameter(bias) is not None:
        tracer.axis(bias, 0, written, Role.FOLLOWS)
    tracer.label(out, spread(written, out.shape, 1))
    positions = image.shape[2:].numel() if transposed else out.shape[2:].numel()
    kind = LayerKind.TRANSPOSED if transposed else LayerKind.CONV
    record = CallRecord(weight, kind, groups, operation, read, written, uses=positions, target=operation)
    tracer.start_chain(out, record)


def _linear(tracer: LabelTracer, name: str, args: tuple[Any, ...], out: Tensor) -> None:
    from autoprune.models.tracing import CallRecord

    if name == "aten::addmm":
        bias, rows, matrix = args[:3]
    elif name == "aten::mm":
        bias, rows, matrix = None, *args[:2]
    else:
        rows, matrix, bias = args[0], args[1], args[2] if len(args) > 2 else None
    operation = tracer.operation()
    weight = tracer.parameter(matrix)
    # addmm gets the transpose of an nn.Linear's weight; a weight used as it is has its input axis first.
    straight = name != "aten::linear" and weight is not None and matrix is weight
    if weight is None or straight:
        _freeze_inputs(tracer, args, {}, "feeds a matrix product whose right side is no layer's weight")
        return
    read = _channel_vector(tracer, rows, -1, f"{tracer.name(weight)} reads features that are mixed with positions")
    if read is not None:
        read = tracer.axis(weight, 1, read, Role.CONSUMES)
    written = tracer.produced(weight, 0)
    if bias is not None and tracer.parameter(bias) is not None:
        tracer.axis(bias, 0, written, Role.FOLLOWS)
    tracer.label(out, spread(written, out.shape, out.dim() - 1))
    uses = out.numel() // out.shape[-1]
    record = CallRecord(weight, LayerKind.LINEAR, 1, operation, read, written, uses=uses, target=operation)
    tracer.start_chain(out, record)


def _batch_norm(tracer: LabelTracer, args: tuple[Any, ...], out: Any) -> CallRecord | None:
    image, parameters = args[0], [item for item in args[1:5] if isinstance(item, Tensor)]
    result = out[0] if isinstance(out, tuple | list) else out
    operation = tracer.operation()
    read = _channel_vector(tracer, image, 1, "batch norm over channels that are mixed with positions")
    if read is None:
        return None
    if any(tracer.parameter(item) is None for item in parameters):
        tracer.atoms.freeze(read, "batch norm whose parameters are computed in the forward")
    for item in parameters:
        if tracer.parameter(item) is not None:
            tracer.axis(item, 0, read, Role.FOLLOWS)
    tracer.label(result, spread(read, result.shape, 1))
    record = tracer.chain(image)
    if record is None or record.settled or record.norm is not None or tracer.parameter(args[1]) is None:
        return None
    record.norm, record.target = args[1], operation
    tracer.extend_chain(record, result)
    return record


def _pointwise(
    tracer: LabelTracer, base: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> CallRecord | None:
    results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    joins = is_addition(base, args)
    # Counted without a look at labels, so that the cut network's additions have the same numbers.
    operation = tracer.operation() if joins else -1
    labelled = [item for item in operands if tracer.labels(item) is not None]
    if not labelled or not results:
        return None
    labels = _broadcast(tracer, base, labelled, operands, results[0])
    for result in results:
        tracer.label(result, labels.expand(result.shape) if labels is not None else None)
    if not joins or len(labelled) < 2:
        return None
    if labels is not None:
        tracer.atoms.couple(labels)
    return _join(tracer, base, args, operation, results[0]) if not kwargs else None


def _join(tracer: LabelTracer, base: str, operands: tuple[Any, ...], operation: int, out: Tensor) -> CallRecord | None:
    """Extends a chain by the addition of another stream; of two chains the one with more inputs is extended."""
    if base != "aten::add" or operands[0].shape != operands[1].shape or operands[0] is operands[1]:
        return None
    open_chains = [record for record in map(tracer.chain, operands) if record is not None and not record.settled]
    open_chains = [record for record in open_chains if not record.joins]
    if not open_chains:
        return None
    # The block's last convolution can correct more than a projection shortcut can, whichever ran last.
    record = max(open_chains, key=lambda item: item.weight.shape[1:].numel())
    record.first_operand = tracer.chain(operands[0]) is record
    record.joins, record.target = True, operation
    tracer.extend_chain(record, out)
    return record


def _broadcast(
    tracer: LabelTracer, base: str, labelled: list[Tensor], operands: Sequence[Tensor], out: Tensor
) -> Tensor | None:
    """Ties the labels of all operands position by position; returns those of the result."""
    merged: Tensor | None = None
    reason = f"{base} with a tensor of fixed width"
    for item in labelled:
        labels = tracer.labels(item)
        assert labels is not None
        labels = (
            labels.reshape([1] * (out.dim() - item.dim()) + list(labels.shape)) if item.dim() < out.dim() else labels
        )
        small = compact(labels)
        if small.numel() == 1 and len(labelled) > 1 and out.numel() > item.numel():
            # A single channel broadcast over many (spatial attention): it can never be cut, they still can.
            tracer.atoms.freeze(small, "a single channel broadcast over others")
            continue
        if merged is None:
            merged = small
            continue
        left, right = torch.broadcast_tensors(merged, small)
        tracer.atoms.tie(left.reshape(-1), right.reshape(-1), reason)
        merged = torch.where(left == FIXED, right, left)
    if merged is None:
        return None
    for item in operands:
        if tracer.labels(item) is None and item.numel() > 1:
            _meet_unlabelled(tracer, merged, item, reason)
    return merged


def _meet_unlabelled(tracer: LabelTracer, labels: Tensor, other: Tensor, reason: str) -> None:
    """A parameter that meets channels position by position follows them; any other wide tensor freezes them."""
    for dim in varying_dims(labels):
        axis = dim - labels.dim() + other.dim()
        if axis < 0 or other.shape[axis] == 1:
            continue
        vector = along(labels, dim)
        if vector is not None and tracer.parameter(other) is other:
            tracer.axis(other, axis, vector, Role.FOLLOWS)
        else:
            tracer.atoms.freeze(labels, reason)


def _move(tracer: LabelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    name = func._schema.name
    # Moves that only permute, or reshape along constant labels, keep stride 0; the others copy small integers.
    if name in ("aten::_to_copy", "aten::clone"):
        moved: Any = tracer.labels(args[0])
    elif name in ("aten::view", "aten::_unsafe_view", "aten::_reshape_alias"):
        moved = _swap(tracer, args[0]).reshape(out.shape)
    else:
        moved = func(*_swap(tracer, args), **_swap(tracer, kwargs))
    results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    labels = [leaf for leaf in tree_leaves(moved) if isinstance(leaf, Tensor)]
    source = args[0]
    if name in ("aten::split", "aten::split_with_sizes", "aten::slice", "aten::select", "aten::unbind"):
        _partial(tracer, name, source, results, labels)
    for result, label in zip(results, labels, strict=True):
        tracer.label(result, _rectangular(tracer, name, label))


def _swap(tracer: LabelTracer, arguments: Any) -> Any:
    """Returns the arguments with label tensors in place of activations; an unlabelled one is fixed throughout."""
    from torch.utils._pytree import tree_map

    def swap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        labels = tracer.labels(leaf)
        return torch.full((1,), FIXED).expand(leaf.shape) if labels is None else labels

    return tree_map(swap, arguments)


def _partial(tracer: LabelTracer, name: str, source: Tensor, results: list[Tensor], labels: list[Tensor]) -> None:
    """Equal chunks along the channels are cut alike; any other part of them has fixed bounds and freezes them."""
    before = tracer.labels(source)
    if before is None:
        return
    whole = torch.unique(before)
    for label in labels:
        if torch.unique(label).numel() == whole.numel():
            continue
        if name == "aten::split" and len({result.shape for result in results}) == 1 and compact(label).dim():
            for other in labels[1:]:
                tracer.atoms.tie(compact(labels[0]), compact(other), "split into parts of which one is fixed")
        else:
            operation = name.removeprefix("aten::")
            tracer.atoms.freeze(before, f"{operation} takes a part of the channels at fixed positions")
        return


def _rectangular(tracer: LabelTracer, name: str, labels: Tensor) -> Tensor:
    """Returns labels that vary along one dimension at most: others are tied, so that whole slices are cut."""
    dims = varying_dims(labels)
    if len(dims) <= 1:
        return labels
    small = compact(labels)
    # A view that splits channels into (groups, channels per group) keeps the groups: the last dimension is cut.
    kept = small
    for dim in dims[:-1]:
        kept = kept.narrow(dim, 0, 1)
    tracer.atoms.tie(kept.expand(small.shape).reshape(-1), small.reshape(-1), f"{name} mixes channels with positions")
    return kept.expand(labels.shape)


def _pad(tracer: LabelTracer, args: tuple[Any, ...], out: Tensor) -> None:
    labels = tracer.labels(args[0])
    assert labels is not None
    small, pads = compact(labels), list(args[1])
    for pair in range(len(pads) // 2):
        dim = labels.dim() - 1 - pair
        before, after = pads[2 * pair : 2 * pair + 2]
        if small.shape[dim] > 1 and (before or after):
            # Padded channels have a width written in the forward: whatever they are tied to is frozen.
            small = torch.nn.functional.pad(small, [0, 0] * pair + [before, after], value=FIXED)
    tracer.label(out, small.expand(out.shape))


def _per_channel(tracer: LabelTracer, name: str, args: tuple[Any, ...], out: Any) -> None:
    image = args[0]
    result = out[0] if isinstance(out, tuple | list) else out
    spatial = 1 if name == "aten::avg_pool1d" else 3 if name.endswith("3d") else 2
    dim = image.dim() - spatial - 1
    vector = _channel_vector(tracer, image, dim, f"{name} over channels that are mixed with positions")
    tracer.label(result, None if vector is None else spread(vector, result.shape, dim))


def _reduce(tracer: LabelTracer, name: str, args: tuple[Any, ...], out: Any) -> None:
    labels = tracer.labels(args[0])
    assert labels is not None
    result = out[0] if isinstance(out, tuple | list) else out
    rank = labels.dim()
    given = args[1] if len(args) > 1 and args[1] is not None else list(range(rank))
    given = [given] if isinstance(given, int) else list(given)
    dims = {dim % rank for dim in given if not isinstance(dim, bool)} or set(range(rank))
    if dims & set(varying_dims(labels)):
        tracer.atoms.freeze(labels, f"{name.removeprefix('aten::')} over channels")
        return
    small = compact(labels)
    shape = list(small.shape)
    if result.dim() < rank:
        shape = [size for dim, size in enumerate(shape) if dim not in dims]
    tracer.label(result, small.reshape(shape).expand(result.shape))


def _along_dim(tracer: LabelTracer, name: str, args: tuple[Any, ...], out: Tensor) -> None:
    labels = tracer.labels(args[0])
    assert labels is not None
    if args[1] % labels.dim() in varying_dims(labels):
        tracer.atoms.freeze(labels, f"{name.removeprefix('aten::').strip('_')} over channels")
    tracer.label(out, labels)


def _layer_norm(tracer: LabelTracer, args: tuple[Any, ...], out: Any) -> None:
    labels = tracer.labels(args[0])
    assert labels is not None
    normalised = range(labels.dim() - len(args[1]), labels.dim())
    if set(normalised) & set(varying_dims(labels)):
        tracer.atoms.freeze(labels, "layer norm over channels: its statistics change with every cut")
    tracer.label(out[0], labels)
