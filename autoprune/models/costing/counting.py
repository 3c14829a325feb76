"""Counts MACs and parameters of a network by running it: the independent check of the cost model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.cost import Cost
from autoprune.models.tracing.vision import DEFORMABLE
from autoprune.models.watching.dispatch import Interpreter
from autoprune.models.watching.operations import CONVOLUTIONS, LINEAR, linear_operands, recurrent_weights
from autoprune.models.watching.origins import COMPUTED, Origins, TensorNames
from autoprune.models.watching.records import Call
from autoprune.tasks.detectors import raw_outputs


class _Counter(Interpreter):
    """Adds up the multiply-accumulates of convolutions, linear and recurrent layers.

    Args:
        model: the network.
        images: what its forward gets.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.macs = 0
        #: {parameter: how often each of its weights was multiplied}, and the multiplications of `COMPUTED` ones.
        self.uses: Counter[str] = Counter()
        self._known = TensorNames.of(model)
        self._origins = Origins(self._known)
        self._origins.show(images)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        call = Call(func, args, kwargs, out)
        self._origins.see(call)
        if call.name in CONVOLUTIONS:
            image, weight, transposed = args[0], args[1], args[6]
            positions = image.shape[2:].numel() if transposed else out.shape[2:].numel()
            self._add(weight, positions * out.shape[0])
        elif call.name == DEFORMABLE:
            self._add(args[1], out.shape[2:].numel() * out.shape[0])
        elif call.name in LINEAR:
            rows, matrix, _ = linear_operands(call.name, args)
            if self._origins.is_layer(rows, matrix):
                self._add(matrix, rows.shape[:-1].numel())
        for weight, uses in recurrent_weights(call.name, args):
            self._add(weight, uses)
        return out

    def _add(self, weight: Tensor, uses: int) -> None:
        self.macs += uses * weight.numel()
        source = self._origins.source(weight)
        if source is None:
            self.uses[COMPUTED] += uses * weight.numel()
        else:
            self.uses[self._known.name(source)] += uses


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
    counter = _Counter(model, images)
    with torch.no_grad(), counter:
        raw_outputs(model, images)
    return Cost(counter.macs, sum(parameter.numel() for parameter in model.parameters())), counter.uses
