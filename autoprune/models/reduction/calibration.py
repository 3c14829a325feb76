"""What one pass of calibration images through the dense network leaves behind: second moments and targets.

Notation:
    B   calibration images
    n   channels of a layer's input, o channels of its output
    r   sampled rows: (image, output position) pairs of one layer

Everything is gathered once per search and handed to workers as plain arrays.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.core.seeds import derive_seed
from autoprune.devices import rounding
from autoprune.models.cutting.surgery import named_tensors
from autoprune.models.network import LayerCall, LayerKind, TracedNetwork
from autoprune.models.watching.operations import (
    ChainTap,
    Handler,
    LayerOperands,
    Operation,
    OperationTap,
    layer_operands,
)
from autoprune.tasks.detectors import raw_outputs

_log = logging.getLogger(__name__)

#: Sampled rows per layer: 28 times the unknowns of a 3x3 convolution over 64 channels.
ROWS = 16_384
#: Second moments of wider inputs (a linear layer behind a flattened map) are not gathered: they are sliced.
WIDEST_INPUT = 4_608


@dataclass(frozen=True, eq=False)
class Calibration:
    """Statistics of the dense network on the calibration images.

    Attributes:
        moments: {call number: (n + 1, n + 1) float64 mean of z z^T over images and positions, where z is the layer's
            input with a one appended: the last column holds the channel means}.
        targets: {call number: (B, p, o) float32 dense values at the end of the layer's chain, at sampled positions}.
        positions: {call number: (B, p) int64 flat output positions that were sampled}.
    """

    moments: dict[int, Tensor]
    targets: dict[int, Tensor]
    positions: dict[int, Tensor]

    def covariance(self, call: int) -> Tensor:
        """Returns (n, n) the covariance of a layer's input channels."""
        moments = self.moments[call]
        mean = moments[:-1, -1]
        return moments[:-1, :-1] - mean[:, None] * mean[None, :]

    def to(self, device: torch.device | str) -> Calibration:
        """Returns the same on another device."""
        kinds = (self.moments, self.targets, self.positions)
        return Calibration(*({call: item.to(device) for call, item in kind.items()} for kind in kinds))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the same as named arrays."""
        found: dict[str, npt.NDArray[Any]] = {}
        for kind in ("moments", "targets", "positions"):
            found.update({f"{kind}/{call}": item.cpu().numpy() for call, item in getattr(self, kind).items()})
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], device: torch.device) -> Calibration:
        """Returns the calibration that `to_arrays` described; read-only arrays are not copied on the CPU."""
        made: dict[str, dict[int, Tensor]] = {"moments": {}, "targets": {}, "positions": {}}
        for name, array in arrays.items():
            kind, _, call = name.partition("/")
            if kind in made:
                made[kind][int(call)] = shared_tensor(array).to(device)
        return cls(**made)


def shared_tensor(array: npt.NDArray[Any]) -> Tensor:
    """Returns a tensor over an array that may be read-only; nothing may write to it."""
    with warnings.catch_warnings():
        # Writing is what torch warns of; these tensors are only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def solvable(call: LayerCall) -> bool:
    """Returns whether a layer's kernel can be solved for: called once, ungrouped, not transposed."""
    return call.groups == 1 and not call.reused and call.kind is not LayerKind.TRANSPOSED


@torch.no_grad()
def calibrate(
    model: nn.Module, network: TracedNetwork, images: Tensor, *, seed: int, rows: int = ROWS, batch: int = 128
) -> Calibration:
    """Returns the statistics of a dense network.

    A layer is left out, and so is sliced, that does not see one block of rows an image in the order of the images, or
    whose input is overwritten in place before the end of its chain.

    Args:
        model: the dense network, in eval mode.
        network: its trace.
        images: (B, C, H, W) calibration images on the model's device.
        seed: of the sampled positions.
        rows: sampled rows per layer.
        batch: images per forward pass.
    """
    tensors = named_tensors(model)
    per_image = max(1, math.ceil(rows / len(images)))
    taps = [
        _Gatherer(call, tensors[call.weight], images=len(images), per_image=per_image, seed=seed)
        for call in network.calls
        if solvable(call)
    ]
    handlers: dict[int, Handler] = {}
    for tap in taps:
        handlers.update(tap.handlers())
    with OperationTap({tap.call.call: tap.look for tap in taps}):
        raw_outputs(model, images[:1])
    for start in range(0, len(images), batch):
        block = images[start : start + batch]
        for tap in taps:
            tap.batch = len(block)
        with OperationTap(handlers):
            raw_outputs(model, block)
        for tap in taps:
            tap.broken |= not tap.finished
    strayed = [tap.call.layer for tap in taps if tap.broken]
    if strayed:
        _log.warning(
            "%s will be sliced, not reconstructed: on a batch they do not see every image once, as on one image alone.",
            ", ".join(strayed[:4]) + (", ..." if len(strayed) > 4 else ""),
        )
    whole = [tap for tap in taps if not tap.broken and not tap.overwritten]
    return Calibration(
        {tap.call.call: tap.moments for tap in whole if tap.moments is not None},
        {tap.call.call: torch.cat(tap.targets) for tap in whole},
        {tap.call.call: torch.cat(tap.positions) for tap in whole},
    )


class _Gatherer(ChainTap):
    """Gathers the statistics of one layer over batches.

    Attributes:
        batch: images of the forward pass under way.
        moments: of what has been seen, as in `Calibration`; None until then.
        targets: (B, p, o) a batch.
        positions: (B, p) a batch.
        overwritten: whether the layer's input was, before the end of the chain.
    """

    def __init__(self, call: LayerCall, weight: Tensor, *, images: int, per_image: int, seed: int) -> None:
        super().__init__(call, weight)
        self.batch = 0
        self.moments: Tensor | None = None
        self.targets: list[Tensor] = []
        self.positions: list[Tensor] = []
        self.overwritten = False
        self._read: tuple[Tensor, int] | None = None
        self._images = images
        self._per_image = per_image
        self._seed = seed
        self._alone: Tensor | None = None

    def look(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Remembers what the layer reads for the first image alone, if that is several rows."""
        operands = layer_operands(func, args)
        if operands is not None and self.call.kind is LayerKind.LINEAR and len(operands.input) > 1:
            self._alone = operands.input.clone()
        return func(*args, **kwargs)

    def begin(self, operands: LayerOperands) -> bool:
        """Adds to the second moments; returns whether each image has its own rows, in the order of the images."""
        x = operands.input
        self._read = (x, x._version)
        if self.call.kind is LayerKind.LINEAR:
            if len(x) % self.batch or x.dim() != 2 or not self._image_by_image(x):
                return False
        elif len(x) != self.batch:
            return False
        if self.call.input is not None and x.shape[1] <= WIDEST_INPUT:
            flat = x.movedim(1, -1).reshape(-1, x.shape[1]) if x.dim() > 2 else x
            flat = torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)
            share = (flat.T @ flat).double() / (len(flat) / self.batch * self._images)
            self.moments = share if self.moments is None else self.moments + share
        return True

    def _image_by_image(self, x: Tensor) -> bool:
        rows = len(x) // self.batch
        if self._alone is None:
            return rows == 1
        # Rows ordered by position first, images second, would pair a dense value with another image's patch.
        alone = self._alone
        if rows != len(alone):
            return False
        deviation = rounding(x.device)
        return bool(self.targets) or torch.allclose(
            x[:rows], alone, rtol=deviation, atol=deviation * float(alone.abs().max())
        )

    def end(self, value: Tensor) -> Tensor:
        """Samples the targets."""
        assert self._read is not None
        x, version = self._read
        self.overwritten |= x._version != version
        self._read = self.layer = self.norm = None
        seed = derive_seed(self._seed, self.call.weight, len(self.targets))
        sampled = _sample_positions(value, self.batch, per_image=self._per_image, seed=seed)
        self.positions.append(sampled)
        self.targets.append(rows_at(value, sampled))
        return value

    def join(self, addition: Operation) -> Tensor:
        """Adds the other stream and samples the targets."""
        return self.end(addition.again())


def _sample_positions(value: Tensor, images: int, *, per_image: int, seed: int) -> Tensor:
    """Returns (B, p) flat positions of a (B, o, *) or (B * rows, o) output, without replacement for each image."""
    available = value.shape[2:].numel() if value.dim() > 2 else len(value) // images
    if per_image >= available:
        return torch.arange(available, device=value.device).expand(images, available).contiguous()
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(images, available, generator=generator).argsort(dim=1)[:, :per_image]
    return order.sort(dim=1).values.to(value.device)


def rows_at(value: Tensor, positions: Tensor) -> Tensor:
    """Returns (B, p, o) the values of a (B, o, *) or (B * rows, o) tensor at (B, p) flat positions."""
    batch, count = positions.shape
    if value.dim() == 2:
        return _picked(value, positions, per_image=len(value) // batch).view(batch, count, -1)
    pixels = value.movedim(1, -1)
    if pixels.is_contiguous():
        # Channels last: a position's values lie together.
        return _picked(pixels.flatten(0, -2), positions, per_image=pixels.shape[1:-1].numel()).view(batch, count, -1)
    flat = value.flatten(2)
    index = positions[:, None, :].expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).transpose(1, 2).contiguous()


def _picked(rows: Tensor, positions: Tensor, *, per_image: int) -> Tensor:
    """Returns (positions, n) the rows at (B, *) positions within each image's rows, of (B * per_image, n) rows."""
    first = torch.arange(0, len(positions) * per_image, per_image, device=positions.device)
    index = positions + first.view(-1, *[1] * (positions.dim() - 1))
    return rows.index_select(0, index.flatten())


def output_extents(
    extents: Sequence[int],
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Returns the spatial extents of a convolution's output."""
    return [
        (extent + 2 * padding[dim] - dilation[dim] * (kernel[dim] - 1) - 1) // stride[dim] + 1
        for dim, extent in enumerate(extents)
    ]


def patches_at(
    x: Tensor,
    positions: Tensor,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Returns (B, p, kernel area * n) the input patches under (B, p) flat output positions of a convolution.

    Args:
        x: (B, n, *) input with as many spatial dimensions as the other arguments have entries; fastest channels last.
        positions: flat positions of the output.
        kernel: extent of the kernel.
        stride: of the convolution.
        padding: zeros on both sides.
        dilation: of the kernel.
    """
    places = output_extents(x.shape[2:], kernel, stride=stride, padding=padding, dilation=dilation)
    index, outside = positions.new_zeros(1), torch.zeros((), dtype=torch.bool, device=x.device)
    left, span = positions, 1
    # From the last dimension to the first: the remainder is the place along it, the quotient goes on. The shape grows
    # to (B, p, kernel extents), with ones where the dimension has not been reached.
    for dim in reversed(range(len(kernel))):
        start = (left % places[dim]) * stride[dim] - padding[dim]
        left = left // places[dim]
        steps = torch.arange(kernel[dim], device=x.device) * dilation[dim]
        along = start.view(*start.shape, *[1] * len(kernel)) + steps.view(-1, *[1] * (len(kernel) - 1 - dim))
        outside = outside | (along < 0) | (along >= x.shape[2 + dim])
        index = index + along.clamp(0, x.shape[2 + dim] - 1) * span
        span *= x.shape[2 + dim]
    # Whole pixels are moved, all channels at once: 5 times faster than one index a number. What lies in the padding is
    # zeroed afterwards, so that no padded copy of the input is needed.
    taken = _picked(x.movedim(1, -1).flatten(0, -2), index, per_image=span)
    if any(padding):
        taken.index_fill_(0, outside.flatten().nonzero().flatten(), 0)
    return taken.view(*positions.shape, -1)


def sampled_inputs(call: LayerCall, args: tuple[Any, ...], x: Tensor, positions: Tensor) -> Tensor:
    """Returns (B, p, d) what a layer reads for the outputs at (B, p) flat positions, pixel by pixel.

    Args:
        call: the layer.
        args: of the operation.
        x: what it reads.
        positions: of its output.
    """
    if call.kind is LayerKind.LINEAR:
        return rows_at(x, positions)
    weight, (stride, padding, dilation) = args[1], args[3:6]
    return patches_at(x, positions, kernel=weight.shape[2:], stride=stride, padding=padding, dilation=dilation)


def to_numpy(tensor: Tensor) -> npt.NDArray[np.float64]:
    """Returns a float64 numpy copy."""
    return tensor.detach().cpu().double().numpy()
