"""Channel rules of what reads maps at computed places: pooling of regions, grids, and deformable convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autoprune.models.network import Role
from autoprune.models.tracing.labels import spread
from autoprune.models.tracing.movement import channel_vector, computed_layer, freeze_inputs
from autoprune.models.watching.records import Call

if TYPE_CHECKING:
    from autoprune.models.tracing.tracer import LabelTracer

DEFORMABLE = "torchvision::deform_conv2d"


def _pool_regions(tracer: LabelTracer, call: Call) -> None:
    """(N, C, H, W) maps become (K, C, h, w) at (K, 5) regions, (N, C, h, w) at a (N, h, w, 2) grid: channels alike."""
    freeze_inputs(tracer, call.operands[1:], "says where regions lie")
    vector = channel_vector(tracer, call.args[0], 1, "regions are pooled over channels that are mixed with positions")
    tracer.label(call.results[0], None if vector is None else spread(vector, call.results[0].shape, 1))


def deformable_convolution(tracer: LabelTracer, call: Call) -> None:
    """A convolution that reads at computed offsets, which are of fixed width; its chain is not recorded."""
    image, kernel, offsets, mask, bias = call.args[:5]
    weight, positions = tracer.parameter(kernel), call.out.shape[2:].numel() * len(image)
    freeze_inputs(tracer, [offsets, mask], "says where a deformable convolution reads")
    if weight is None:
        freeze_inputs(tracer, call.operands, "feeds a convolution whose weight is computed in the forward")
        computed_layer(tracer, kernel, positions)
        return
    name = tracer.name(weight)
    tracer.derived_uses[id(weight)] += positions
    read = channel_vector(tracer, image, 1, f"{name} reads channels that are mixed with positions")
    weight_groups, offset_groups = call.args[11:13]
    written = tracer.produced(weight, 0)
    if read is not None and weight_groups == offset_groups == 1:
        tracer.axis(weight, 1, read, Role.CONSUMES)
    elif read is not None:
        tracer.atoms.freeze(read, f"{name} is a grouped deformable convolution")
    if weight_groups > 1:
        tracer.atoms.freeze(written, f"{name} is a grouped deformable convolution")
    own_bias = tracer.parameter(bias)
    if own_bias is not None:  # without one, torchvision makes zeros as long as the weight
        tracer.axis(own_bias, 0, written, Role.FOLLOWS)
    tracer.label(call.out, spread(written, call.out.shape, 1))


#: {operation: its rule}, for operations of which at least one argument carries channels.
VISION_RULES: dict[str, Callable[[Any, Call], None]] = {
    "torchvision::roi_align": _pool_regions,
    "torchvision::roi_pool": _pool_regions,
    "aten::grid_sampler_2d": _pool_regions,
    "aten::grid_sampler_3d": _pool_regions,
}
