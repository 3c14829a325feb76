"""Channel rules of operations without weights: those that move data, and those that treat every channel alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.models.network import home_of
from autoprune.models.tracing.labels import FIXED, along, compact, distinct, spread, varying_dims
from autoprune.models.watching.records import Call

if TYPE_CHECKING:
    from autoprune.models.tracing.tracer import LabelTracer

_MOVES = """
    view _unsafe_view reshape permute transpose t expand slice select split split_with_sizes unbind squeeze unsqueeze
    clone contiguous alias detach _to_copy flip roll repeat pixel_shuffle pixel_unshuffle native_channel_shuffle
    channel_shuffle index index_select unfold lift_fresh _reshape_alias cat stack
"""
_PER_CHANNEL = """
    max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d
    upsample_bicubic2d _upsample_nearest_exact2d reflection_pad2d replication_pad2d max_pool2d adaptive_avg_pool2d
    _upsample_bilinear2d_aa avg_pool1d mkldnn_max_pool2d _adaptive_avg_pool3d max_pool3d_with_indices avg_pool3d
    adaptive_max_pool3d upsample_linear1d upsample_nearest1d upsample_trilinear3d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact3d reflection_pad1d reflection_pad3d replication_pad1d
    replication_pad3d
"""
_REDUCTIONS = "mean sum amax amin max min var std var_mean std_mean logsumexp any all argmax argmin"
_ALONG_DIM = "_softmax _log_softmax _safe_softmax cumsum"
_PARTS = frozenset({"aten::split", "aten::split_with_sizes", "aten::slice", "aten::select", "aten::unbind"})
_FIXED_ORDER = frozenset({"aten::index_select", "aten::roll"})
_RESHAPES = frozenset({"aten::view", "aten::_unsafe_view", "aten::_reshape_alias"})
_AS_MANY = """
    rand_like randn_like bernoulli bernoulli_ normal_ uniform_ empty_like zeros_like ones_like full_like fill_ zero_
"""
_UNLABELLED = "new_zeros new_empty new_ones new_full"


def operations(names: str) -> list[str]:
    """Returns the full names of blank-separated operations."""
    return [f"aten::{name}" for name in names.split()]


MOVES = frozenset(operations(_MOVES))
#: Make a tensor of a written shape, which carries no channel.
UNLABELLED = frozenset(operations(_UNLABELLED))


def freeze_inputs(tracer: LabelTracer, operands: Iterable[Tensor], reason: str) -> None:
    """Freezes every channel that the operands carry."""
    for leaf in operands:
        labels = tracer.labels(leaf)
        if labels is not None:
            tracer.atoms.freeze(labels, reason)


def computed_layer(tracer: LabelTracer, weight: Tensor, uses: int) -> None:
    """Counts a layer whose weight is computed in the forward, and notes that it is never cut."""
    tracer.count_derived(weight, uses)
    source = tracer.origins.source(weight)
    if source is not None:
        tracer.computed_layers[home_of(tracer.name(source))] = "its weight is computed in the forward"


def channel_vector(tracer: LabelTracer, tensor: Tensor, dim: int, reason: str) -> Tensor | None:
    """Returns the labels along the channel dimension; channels mixed with positions are frozen."""
    labels = tracer.labels(tensor)
    if labels is None:
        return None
    vector = along(labels, dim)
    if vector is None:
        tracer.atoms.freeze(labels, reason)
    return vector


def meet_unlabelled(tracer: LabelTracer, labels: Tensor, other: Tensor, reason: str) -> None:
    """A parameter that meets channels position by position follows them; any other wide tensor freezes them."""
    for dim in varying_dims(labels):
        axis = dim - labels.dim() + other.dim()
        # One value expanded over the channels goes with any number of them.
        if axis < 0 or other.shape[axis] == 1 or other.stride(axis) == 0:
            continue
        vector = along(labels, dim)
        if vector is None or not tracer.follow(other, axis, vector):
            tracer.atoms.freeze(labels, reason)


def _move(tracer: LabelTracer, call: Call) -> None:
    if call.name == "aten::cat":
        _append_parameters(tracer, call)
    # Moves that only permute, or reshape along constant labels, keep stride 0; the others copy small integers.
    if call.name in ("aten::_to_copy", "aten::clone"):
        moved: Any = tracer.labels(call.args[0])
    elif call.name in _RESHAPES:
        moved = _swap(tracer, call.args[0]).reshape(call.out.shape)
    else:
        freeze_inputs(tracer, (leaf for leaf in call.args[1:] if isinstance(leaf, Tensor)), "is used as an index")
        moved = call.func(_swap(tracer, call.args[0]), *call.args[1:], **call.kwargs)
    labels = [leaf for leaf in tree_leaves(moved) if isinstance(leaf, Tensor)]
    if call.name in _PARTS:
        _freeze_parts(tracer, call, labels)
    elif call.name in _FIXED_ORDER:
        _freeze_reordered(tracer, call, labels[0])
    for result, label in zip(call.results, labels, strict=True):
        tracer.label(result, _rectangular(tracer, call, label))


def _append_parameters(tracer: LabelTracer, call: Call) -> None:
    """Labels parameters that are put beside an activation, such as a class token: their channels follow its own."""
    tensors = call.args[0]
    labels = next((found for item in tensors if (found := tracer.labels(item)) is not None), None)
    dims = [] if labels is None else varying_dims(labels)
    dim = (call.args[1] if len(call.args) > 1 else 0) % call.out.dim()
    if labels is None or len(dims) != 1 or dims[0] == dim:
        return
    vector = along(labels, dims[0])
    for item in tensors:
        unlabelled = tracer.labels(item) is None and item.dim() == call.out.dim()
        if unlabelled and vector is not None and tracer.follow(item, dims[0], vector):
            tracer.label(item, spread(vector, item.shape, dims[0]))


def _swap(tracer: LabelTracer, arguments: Any) -> Any:
    """Returns the arguments with label tensors in place of tensors; an unlabelled one is fixed throughout."""

    def swap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        labels = tracer.labels(leaf)
        return torch.full((1,), FIXED).expand(leaf.shape) if labels is None else labels

    return tree_map(swap, arguments)


def _freeze_parts(tracer: LabelTracer, call: Call, labels: list[Tensor]) -> None:
    """Equal chunks along the channels are cut alike; any other part of them has fixed bounds and freezes them."""
    before = tracer.labels(call.args[0])
    if before is None:
        return
    whole = distinct(before)
    for label in labels:
        if len(distinct(label)) == len(whole):
            continue
        if call.name == "aten::split" and len({result.shape for result in call.results}) == 1 and compact(label).dim():
            for other in labels[1:]:
                tracer.atoms.tie(compact(labels[0]), compact(other), "split into parts of which one is fixed")
        else:
            tracer.atoms.freeze(before, f"{call.plain} takes a part of the channels at fixed positions")
        return


def _freeze_reordered(tracer: LabelTracer, call: Call, after: Tensor) -> None:
    """Freezes channels that an operation puts into an order written in the forward; positions may move."""
    before = tracer.labels(call.args[0])
    if before is not None and not torch.equal(compact(before), compact(after)):
        tracer.atoms.freeze(before, f"{call.plain} takes channels at fixed positions")


def _rectangular(tracer: LabelTracer, call: Call, labels: Tensor) -> Tensor:
    """Returns labels that vary along one dimension at most: others are tied, so that whole slices are cut."""
    dims = varying_dims(labels)
    if len(dims) <= 1:
        return labels
    small = compact(labels)
    # A view that splits channels into (groups, channels per group) keeps the groups: the last dimension is cut. A pixel
    # shuffle spreads blocks of channels over positions: what is left of the channel dimension is cut.
    cut = labels.dim() - 3 if call.name == "aten::pixel_shuffle" else tracer.split(labels, dims)
    kept = small
    for dim in dims:
        kept = kept if dim == cut else kept.narrow(dim, 0, 1)
    tracer.atoms.tie(kept.expand(small.shape).reshape(-1), small.reshape(-1), f"{call.plain} mixes it with positions")
    return kept.expand(labels.shape)


def _pad(tracer: LabelTracer, call: Call) -> None:
    labels = tracer.labels(call.args[0])
    assert labels is not None
    small, pads = compact(labels), list(call.args[1])
    for pair in range(len(pads) // 2):
        dim = labels.dim() - 1 - pair
        before, after = pads[2 * pair : 2 * pair + 2]
        if min(before, after) < 0 and small.shape[dim] > 1:
            tracer.atoms.freeze(small, "a negative padding takes a part of the channels")
        if small.shape[dim] > 1 and (before or after):
            # Padded channels have a width written in the forward: whatever they are tied to is frozen.
            small = torch.nn.functional.pad(small, [0, 0] * pair + [before, after], value=FIXED)
    tracer.label(call.out, small.expand(call.out.shape))


def _per_channel(tracer: LabelTracer, call: Call) -> None:
    image, dim = call.args[0], _channel_dim(call)
    vector = channel_vector(tracer, image, dim, f"{call.plain} over channels that are mixed with positions")
    for item in call.results:  # where maxima were found goes back to the same channels, see `_unpool`
        tracer.label(item, None if vector is None else spread(vector, item.shape, dim))


def _channel_dim(call: Call) -> int:
    spatial = 1 if "1d" in call.name else 3 if "3d" in call.name else 2
    return int(call.args[0].dim()) - spatial - 1


def _unpool(tracer: LabelTracer, call: Call) -> None:
    """Channels are spread to where the maxima of others were, as in SegNet (2017): one by one, so they go together."""
    dim, reason = _channel_dim(call), f"{call.plain} of channels that are not those of the pooling"
    read, found = (channel_vector(tracer, item, dim, reason) for item in call.args[:2])
    if read is None or found is None:
        freeze_inputs(tracer, call.operands, reason)
        return
    tracer.atoms.tie(read, found, reason)
    tracer.label(call.out, spread(read, call.out.shape, dim))


def _reduce(tracer: LabelTracer, call: Call) -> None:
    labels, result = tracer.labels(call.args[0]), call.results[0]
    if labels is None or len(call.operands) > 1:
        freeze_inputs(tracer, call.operands, f"no channel rule for {call.name} of several tensors")
        return
    rank = labels.dim()
    # A norm names its order before its dimensions.
    place = 2 if call.name == "aten::linalg_vector_norm" else 1
    given = call.args[place] if len(call.args) > place and call.args[place] is not None else list(range(rank))
    given = [given] if isinstance(given, int) else list(given)
    dims = {dim % rank for dim in given if not isinstance(dim, bool)} or set(range(rank))
    if dims & set(varying_dims(labels)):
        # Attention weights averaged over heads, which a block asks for by default and throws away, harm nobody.
        for item in call.results:
            tracer.lose(item, labels, f"{call.plain} over channels")
        return
    small = compact(labels)
    shape = list(small.shape)
    if result.dim() < rank:
        shape = [size for dim, size in enumerate(shape) if dim not in dims]
    for item in call.results:
        tracer.label(item, small.reshape(shape).expand(item.shape))


def _vector_norm(tracer: LabelTracer, call: Call) -> None:
    """A norm over channels has none: removed ones count as the zeros that they are."""
    labels, order = tracer.labels(call.args[0]), call.args[1] if len(call.args) > 1 else 2
    given = call.args[2] if len(call.args) > 2 and call.args[2] is not None else None
    dims = None if given is None or labels is None else {dim % labels.dim() for dim in given}
    if labels is not None and dims is not None and dims >= set(varying_dims(labels)) and order > 0:
        return
    _reduce(tracer, call)


def _along_dim(tracer: LabelTracer, call: Call) -> None:
    labels = tracer.labels(call.args[0])
    assert labels is not None
    if call.args[1] % labels.dim() in varying_dims(labels):
        tracer.atoms.freeze(labels, f"{call.plain} over channels")
    tracer.label(call.out, labels)


def _gated(tracer: LabelTracer, call: Call) -> None:
    """Halves of the channels, multiplied: they are cut alike."""
    labels = tracer.labels(call.args[0])
    assert labels is not None
    left, right = labels.chunk(2, call.args[1] if len(call.args) > 1 else -1)
    tracer.atoms.tie(compact(left), compact(right), "a gate of halves of which one is fixed")
    tracer.label(call.out, left)


def _as_many(tracer: LabelTracer, call: Call) -> None:
    """Constants, or numbers drawn, for channels, whatever these are: there are as many as channels."""
    freeze_inputs(tracer, call.operands[1:], f"no channel rule for {call.name} of several tensors")
    tracer.label(call.out, tracer.labels(call.args[0]))


def _restrided(tracer: LabelTracer, call: Call) -> None:
    """A map of one position, pooled from one with channels last, is laid out likewise: nothing moves."""
    labels = tracer.labels(call.args[0])
    if labels is not None and list(labels.shape) != list(call.args[1]):
        tracer.atoms.freeze(labels, f"no channel rule for {call.name} to another shape")
        labels = None
    tracer.label(call.out, labels)


def _layer_norm(tracer: LabelTracer, call: Call) -> None:
    labels = tracer.labels(call.args[0])
    if labels is None:
        return
    normalised = range(labels.dim() - len(call.args[1]), labels.dim())
    if set(normalised) & set(varying_dims(labels)):
        tracer.atoms.freeze(labels, "layer norm over channels: its statistics change with every cut")
    tracer.label(call.results[0], labels)


def _group_norm(tracer: LabelTracer, call: Call) -> None:
    """Channels that are normalised together can only be cut together: then no statistics change."""
    image, weight, bias, groups = call.args[0], call.args[1], call.args[2], int(call.args[6])
    read = channel_vector(tracer, image, 1, "group norm over channels that are mixed with positions")
    if read is None:
        return
    if groups == 1:
        tracer.atoms.freeze(read, "group norm over all channels: its statistics change with every cut")
    elif not isinstance(weight, Tensor):
        tracer.atoms.freeze(read, "group norm without weights, which alone tell its groups once it is cut")
    members = read.reshape(groups, -1)
    tracer.atoms.tie(members[:, :1], members, "group norm over channels of which one is fixed")
    for item in (weight, bias):
        if isinstance(item, Tensor) and not tracer.follow(item, 0, read):
            tracer.atoms.freeze(read, "group norm whose parameters are computed in the forward")
    out, *statistics = call.results
    tracer.label(out, spread(read, out.shape, 1))
    for item in statistics:  # (B, groups)
        tracer.label(item, spread(members[:, 0], item.shape, 1))


_Rule = Callable[[Any, Call], None]
#: {operation: its rule}, for operations of which at least one argument carries channels.
DATA_RULES: dict[str, _Rule] = {
    **dict.fromkeys(operations(_MOVES), _move),
    **dict.fromkeys(operations(_PER_CHANNEL), _per_channel),
    **dict.fromkeys(operations(_REDUCTIONS), _reduce),
    **dict.fromkeys(operations(_ALONG_DIM), _along_dim),
    **dict.fromkeys(operations(_AS_MANY), _as_many),
    "aten::constant_pad_nd": _pad,
    "aten::as_strided_": _restrided,
    "aten::glu": _gated,
    **dict.fromkeys(operations("max_unpool2d max_unpool3d"), _unpool),
    "aten::linalg_vector_norm": _vector_norm,
    "aten::native_layer_norm": _layer_norm,
    "aten::native_group_norm": _group_norm,
}
