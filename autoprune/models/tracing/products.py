"""Channel rules of products of two activations: attention, written by hand or fused, and what surrounds it.

Queries, keys and values come as (B, heads, tokens, head_dim), or with batch and heads in one dimension. Whole heads are
cut, as each has a product of its own; without heads, the same channels of queries and keys are.

A view that splits channels into (heads, head_dim) looks like any other that splits them, and the usual choice is to cut
the last dimension alike in all groups. When a product then finds itself summing over such channels, it asks for the
heads instead, and the network is traced again (`LabelTracer.want_heads`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from autoprune.models.tracing.labels import along, spread, varying_dims
from autoprune.models.tracing.movement import freeze_inputs, meet_unlabelled, operations
from autoprune.models.watching.records import Call

if TYPE_CHECKING:
    from autoprune.models.tracing.tracer import LabelTracer

_FUSED = """
    _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_cudnn_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_fused_attention_overrideable
    _scaled_dot_product_attention_math_for_mps
"""


def _batched(tracer: LabelTracer, call: Call) -> None:
    left, right = call.args[-2:]
    _multiply(tracer, left, right, call.out)
    if len(call.args) == 3:  # baddbmm
        _follow(tracer, call.args[0], call.out)


def _multiply(tracer: LabelTracer, left: Tensor, right: Tensor, out: Tensor) -> None:
    """Labels out (b, n, p) = left (b, n, m) @ right (b, m, p)."""
    reads = [(tensor, labels) for tensor in (left, right) if (labels := tracer.labels(tensor)) is not None]
    varies = {dim for _, labels in reads for dim in varying_dims(labels)}
    if varies == {0} and len(reads) == 2:
        _tie_along(tracer, reads, dim=0)
        _, labels = reads[0]
        tracer.label(out, spread(_vector(labels, 0), out.shape, 0))
    elif varies == {1} and reads[0][0] is left and len(reads) == 1:
        tracer.label(out, spread(_vector(reads[0][1], 1), out.shape, 1))
    elif varies == {2} and reads[0][0] is right and len(reads) == 1:
        tracer.label(out, spread(_vector(reads[0][1], 2), out.shape, 2))
    elif [varying_dims(labels) for _, labels in reads] == [[2], [1]] and not _in_heads(tracer, reads, out.shape[0]):
        # Attention without heads: what is cut is zero in both factors and missing from no sum.
        tracer.atoms.tie(_vector(reads[0][1], 2), _vector(reads[1][1], 1), "a product with fixed channels")
    else:
        for _, labels in reads:
            _refuse(tracer, labels, out.shape[0])


def _in_heads(tracer: LabelTracer, reads: list[tuple[Tensor, Tensor]], heads: int) -> bool:
    """Returns whether the channels of a product were split into heads, and asks for these."""
    asked = [tracer.want_heads(labels, heads) for _, labels in reads]
    return any(asked)


def _fused(tracer: LabelTracer, call: Call) -> None:
    query, key, value = call.args[:3]
    reads = [(tensor, labels) for tensor in (query, key, value) if (labels := tracer.labels(tensor)) is not None]
    varies = {dim for _, labels in reads for dim in varying_dims(labels)}
    out: Tensor = call.results[0]
    if varies == {1} and len(reads) == 3:
        _tie_along(tracer, reads, dim=1)
        tracer.label(out, spread(_vector(reads[0][1], 1), out.shape, 1))
        for mask in call.operands[3:]:
            _follow(tracer, mask, out)
    else:
        for _, labels in reads:
            _refuse(tracer, labels, query.shape[1])
        freeze_inputs(tracer, call.operands[3:], "is added to the scores of attention heads that are fixed")


def _vector(labels: Tensor, dim: int) -> Tensor:
    vector = along(labels, dim)
    assert vector is not None  # labels vary along one dimension at most
    return vector


def _tie_along(tracer: LabelTracer, reads: list[tuple[Tensor, Tensor]], *, dim: int) -> None:
    (_, first), *others = reads
    for _, labels in others:
        tracer.atoms.tie(_vector(first, dim), _vector(labels, dim), "attention with heads of which one is fixed")


def _refuse(tracer: LabelTracer, labels: Tensor, heads: int) -> None:
    tracer.want_heads(labels, heads)
    tracer.atoms.freeze(labels, "a product of activations sums over its channels, and no view says which are a head")


def _follow(tracer: LabelTracer, added: Any, out: Tensor) -> None:
    """Ties what is added to the scores to the heads of the labelled result, aligned as broadcasting aligns them."""
    labels = tracer.labels(out)
    if labels is None or not isinstance(added, Tensor) or added.numel() == 1:
        return
    reason = "is added to the scores of attention heads"
    theirs = tracer.labels(added)
    if theirs is None:
        meet_unlabelled(tracer, labels, added, f"a tensor of fixed width {reason}")
        return
    dim = varying_dims(labels)[0]
    axis = dim - out.dim() + added.dim()
    if varying_dims(theirs) == [axis]:
        tracer.atoms.tie(
            _vector(labels, dim), _vector(theirs, axis), f"a tensor of which one channel is fixed {reason}"
        )
    else:
        tracer.atoms.freeze(theirs, reason)
        tracer.atoms.freeze(labels, f"a tensor of other channels {reason}")


_Rule = Callable[[Any, Call], None]
PRODUCT_RULES: dict[str, _Rule] = {
    **dict.fromkeys(operations("bmm baddbmm"), _batched),
    **dict.fromkeys(operations(_FUSED), _fused),
}
