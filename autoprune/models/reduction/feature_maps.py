"""Mean feature maps: what channels answer on average, and how far the directions of their answers lie apart.

Notation:
    M  (N, positions) outputs of a group's N channels, before batch norm, averaged over images
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.cost import FloatArray
from autoprune.models.cutting.surgery import named_tensor
from autoprune.models.network import LayerCall
from autoprune.models.reduction.calibration import to_numpy
from autoprune.models.reduction.similarity import cosine_distances
from autoprune.models.watching.operations import Handler, OperationTap, operands_of
from autoprune.tasks.detectors import raw_outputs


@torch.no_grad()
def mean_maps(
    model: nn.Module, calls: Iterable[LayerCall], images: Tensor, *, batch: int = 50
) -> dict[int, FloatArray]:
    """Returns {call number: (channels, positions) the layer's output averaged over the images}.

    A linear layer's rows are averaged, too: its map has one position. A layer that does not run in its place on several
    images, as it does on one, is left out.

    Args:
        model: the dense network, in eval mode.
        calls: the layers.
        images: (B, C, H, W) on the model's device.
        batch: images per forward pass, at most.
    """
    found: dict[int, FloatArray] = {}
    strayed: set[int] = set()

    def adding(call: LayerCall) -> Handler:
        weight = named_tensor(model, call.weight)

        def handler(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            out: Tensor = func(*args, **kwargs)
            if operands_of(weight, func, args) is None:
                strayed.add(call.call)
                return out
            mean = to_numpy(out.double().mean(0).reshape(out.shape[1], -1))
            found[call.call] = found.get(call.call, 0.0) + mean * (len(block) / len(images))
            return out

        return handler

    handlers = {call.call: adding(call) for call in calls}
    # Of equal size: a network may run other operations on the single image that would otherwise be left at the end.
    for block in images.tensor_split(math.ceil(len(images) / batch)):
        with OperationTap(handlers):
            raw_outputs(model, block)
    return {number: mean for number, mean in found.items() if number not in strayed}


def map_distances(maps: FloatArray, filters: FloatArray) -> FloatArray:
    """Returns (N, N) cosine distances between mean maps, between filters where a map has fewer than two positions.

    One number has a sign and no direction: any two channels would be 0 or 2 apart, whatever they compute.

    Args:
        maps: M.
        filters: (N, d) flattened filters of the same channels.
    """
    return cosine_distances(filters if maps.shape[1] < 2 else maps)
