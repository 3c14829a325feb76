"""Counts MACs and parameters of a network by running it: the independent check of the cost model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.cost import Cost
from autoprune.models.dispatch import Interpreter
from autoprune.models.vision import DEFORMABLE
from autoprune.tasks.detectors import raw_outputs


class _Counter(Interpreter):
    """Adds up the multiply-accumulates of convolutions and of products with two-dimensional weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.macs = 0
        #: {parameter: how often each of its weights was multiplied}.
        self.uses: Counter[str] = Counter()
        # A part of a weight may begin where the whole does: products with parts are no layers, here and in the trace.
        self._weights = {(item.data_ptr(), item.numel()): name for name, item in model.named_parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "aten::convolution":
            image, weight, transposed = args[0], args[1], args[6]
            positions = image.shape[2:].numel() if transposed else out.shape[2:].numel()
            self._add(weight, positions * out.shape[0])
        elif name == DEFORMABLE:
            self._add(args[1], out.shape[2:].numel() * out.shape[0])
        elif name in ("aten::addmm", "aten::mm"):
            rows, matrix = args[-2], args[-1]
            if (matrix.data_ptr(), matrix.numel()) in self._weights:
                self._add(matrix, rows.shape[0])
        return out

    def _add(self, weight: Tensor, uses: int) -> None:
        self.macs += uses * weight.numel()
        name = self._weights.get((weight.data_ptr(), weight.numel()))
        if name is not None:  # none where it was computed in the forward
            self.uses[name] += uses


def count(model: nn.Module, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> Cost:
    """Returns MACs (convolution and linear layers, of one image) and parameters, counted on a real forward.

    Args:
        model: the network, in eval mode.
        shape: (1, C, H, W) of the image.
        dtype: of the image.
    """
    device = next(iter(model.parameters())).device
    return count_on(model, torch.zeros(shape, dtype=dtype, device=device))[0]


def count_on(model: nn.Module, images: Tensor) -> tuple[Cost, Mapping[str, int]]:
    """Returns MACs of a forward over all these images and parameters, and how often each weight was multiplied.

    Args:
        model: the network, in eval mode.
        images: (B, C, H, W).
    """
    counter = _Counter(model)
    with torch.no_grad(), counter:
        raw_outputs(model, images)
    return Cost(counter.macs, sum(parameter.numel() for parameter in model.parameters())), counter.uses
