"""The calls of a network's layers as pure shapes: enough to run any of them alone, at any widths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.cost import AxisWidth
from autoprune.models.cutting.surgery import named_tensor
from autoprune.models.network import LayerCall, TracedNetwork
from autoprune.models.tracing.assembly import axis_width
from autoprune.models.watching.operations import CONVOLUTIONS, LayerOperands, OperationTap, operands_of
from autoprune.tasks.detectors import raw_outputs


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One call of a convolution or linear layer.

    Attributes:
        inner: channels of its input.
        out: channels of its output.
        positions: extents of its input behind the channels; of a linear layer the number of its rows.
        batch: images at a time; 1 for a linear layer, whose rows count them in.
        kernel: of a convolution; empty for a linear layer.
        settings: stride, padding, dilation, whether transposed, output padding.
        groups: of a convolution; 0 for a depthwise one, which has as many as inputs.
        bias: whether it has one.
    """

    inner: int
    out: int
    positions: tuple[int, ...]
    batch: int = 1
    kernel: tuple[int, ...] = ()
    settings: tuple[Any, ...] = ()
    groups: int = 1
    bias: bool = False

    @property
    def key(self) -> str:
        """One line that names it, for tables on the disk."""
        kind = "conv" if self.kernel else "linear"
        sizes = " ".join("x".join(map(str, part)) for part in (self.positions, self.kernel) if part)
        settings = " ".join(str(list(part) if isinstance(part, tuple) else part) for part in self.settings)
        end = f" groups={self.groups}" * bool(self.kernel) + " bias" * self.bias
        return f"{kind} {self.batch}x{self.inner}>{self.out} {sizes} {settings}".strip() + end

    @property
    def size(self) -> tuple[int, int]:
        """Elements of its input and of its weight."""
        area = int(torch.Size(self.positions).numel())
        per_group = self.inner // (self.groups or self.inner)
        weight = self.out * (per_group if self.kernel else self.inner) * int(torch.Size(self.kernel).numel())
        return self.batch * self.inner * area, weight

    def call(self, memory: Tensor) -> Callable[[], Tensor]:
        """Returns the operation, ready to run on values that lie in `memory`, as long as the larger of `size`."""
        read, held = self.size
        bias = memory[: self.out] if self.bias else None
        if not self.kernel:
            rows, weight = memory[:read].view(-1, self.inner), memory[:held].view(self.out, self.inner).t()
            if bias is None:
                return lambda: torch.mm(rows, weight)
            return lambda: torch.addmm(bias, rows, weight)
        groups = self.groups or self.inner
        stride, padding, dilation, transposed, output_padding = (
            list(part) if isinstance(part, tuple) else part for part in self.settings
        )
        image = memory[:read].view(self.batch, self.inner, *self.positions)
        axes = (self.inner, self.out // groups) if transposed else (self.out, self.inner // groups)
        weight = memory[:held].view(*axes, *self.kernel)
        convolve = torch.ops.aten.convolution.default
        return lambda: convolve(image, weight, bias, stride, padding, dilation, transposed, output_padding, groups)


@dataclass(frozen=True, slots=True)
class CalledLayer:
    """One call in a network, and how its widths follow from those of the groups.

    Attributes:
        shape: in the dense network.
        inner: width of its input.
        out: width of its output.
        written: elements that it writes per output channel.
    """

    shape: LayerShape
    inner: AxisWidth
    out: AxisWidth
    written: int

    def at(self, inner: int, out: int) -> LayerShape:
        """Returns the call at other widths."""
        return replace(self.shape, inner=inner, out=out)


def layer_calls(model: nn.Module, network: TracedNetwork, images: Tensor) -> tuple[CalledLayer, ...]:
    """Returns the calls of convolutions and linear layers in a forward pass, as far as the trace knows them.

    Args:
        model: the dense network, in eval mode.
        network: its trace.
        images: (B, C, H, W) on the model's device; the shapes are those of a forward pass of so many images.
    """
    found: dict[int, CalledLayer] = {}

    def reader(call: LayerCall) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]:
        weight = named_tensor(model, call.weight)

        def read(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            out = func(*args, **kwargs)
            operands = operands_of(weight, func, args)
            shape = None if operands is None else _shape(func, args, out, operands)
            if shape is not None:
                inner = None if call.input is None else axis_width(network.channels[call.input])
                written = out.numel() // shape.out
                width = axis_width(network.channels[call.output])
                found[call.call] = CalledLayer(shape, inner or AxisWidth(shape.inner), width, written)
            return out

        return read

    with torch.no_grad(), OperationTap({call.call: reader(call) for call in network.calls}):
        raw_outputs(model, images)
    return tuple(found[number] for number in sorted(found))


def _shape(func: Any, args: tuple[Any, ...], out: Tensor, operands: LayerOperands) -> LayerShape:
    read, bias = operands.input, operands.bias is not None
    if func._schema.name not in CONVOLUTIONS:
        inner = read.shape[-1]
        return LayerShape(inner, out.shape[-1], (read.numel() // inner,), bias=bias)
    stride, padding, dilation, transposed, output_padding, groups = args[3:9]
    settings = (*map(tuple, (stride, padding, dilation)), bool(transposed), tuple(output_padding))
    depthwise = groups > 1 and groups == read.shape[1]
    return LayerShape(
        inner=read.shape[1],
        out=out.shape[1],
        positions=tuple(read.shape[2:]),
        batch=read.shape[0],
        kernel=tuple(args[1].shape[2:]),
        settings=settings,
        groups=0 if depthwise else int(groups),
        bias=bias,
    )
