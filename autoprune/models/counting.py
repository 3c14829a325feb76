"""Counts MACs and parameters of a network by running it: the independent check of the cost model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autoprune.core.cost import Cost
from autoprune.models.dispatch import Interpreter
from autoprune.tasks.detectors import raw_outputs


class _Counter(Interpreter):
    """Adds up the multiply-accumulates of convolutions and of products with two-dimensional weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.macs = 0
        # A part of a weight may begin where the whole does: products with parts are no layers, here and in the trace.
        self._weights = {(parameter.data_ptr(), parameter.numel()) for parameter in model.parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "aten::convolution":
            image, weight, transposed = args[0], args[1], args[6]
            positions = image.shape[2:].numel() if transposed else out.shape[2:].numel()
            self.macs += positions * out.shape[0] * weight.numel()
        elif name in ("aten::addmm", "aten::mm"):
            rows, matrix = args[-2], args[-1]
            if (matrix.data_ptr(), matrix.numel()) in self._weights:
                self.macs += rows.shape[0] * matrix.numel()
        return out


def count(model: nn.Module, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> Cost:
    """Returns MACs (convolution and linear layers, of one image) and parameters, counted on a real forward.

    Args:
        model: the network, in eval mode.
        shape: (1, C, H, W) of the image.
        dtype: of the image.
    """
    device = next(iter(model.parameters())).device
    counter = _Counter(model)
    with torch.no_grad(), counter:
        raw_outputs(model, torch.zeros(shape, dtype=dtype, device=device))
    return Cost(counter.macs, sum(parameter.numel() for parameter in model.parameters()))
