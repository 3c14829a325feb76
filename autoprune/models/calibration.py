"""What one pass of calibration images through the dense network leaves behind: second moments and targets.

Notation:
    B   calibration images
    n   channels of a layer's input, o channels of its output
    r   sampled rows: (image, output position) pairs of one layer

Everything is gathered once per search and handed to workers as plain arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.core.seeds import derive_seed
from autoprune.models.network import LayerCall, LayerKind, TracedNetwork
from autoprune.models.operations import OperationTap

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
    import warnings

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

    Args:
        model: the dense network, in eval mode.
        network: its trace.
        images: (B, C, H, W) calibration images on the model's device.
        seed: of the sampled positions.
        rows: sampled rows per layer.
        batch: images per forward pass.
    """
    calls = [call for call in network.calls if solvable(call)]
    moments: dict[int, list[Tensor]] = {}
    targets: dict[int, list[Tensor]] = {call.call: [] for call in calls}
    positions: dict[int, list[Tensor]] = {call.call: [] for call in calls}
    per_image = max(1, math.ceil(rows / len(images)))

    def read(call: LayerCall) -> Any:
        def handler(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = args[_input_argument(func)]
            if call.input is not None and x.shape[1] <= WIDEST_INPUT:
                flat = (x.movedim(1, -1).reshape(-1, x.shape[1]) if x.dim() > 2 else x).float()
                flat = torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)
                total = moments.setdefault(call.call, [torch.zeros((), dtype=torch.float64, device=x.device)])
                total[0] = total[0] + (flat.T @ flat).double() / (flat.shape[0] / len(x) * len(images))
            out = func(*args, **kwargs)
            return write(call)(lambda: out) if call.target == call.call else out

        return handler

    def write(call: LayerCall) -> Any:
        def keep(run: Any) -> Any:
            out = run()
            value = out[0] if isinstance(out, tuple) else out
            sampled = _sample_positions(value, per_image, derive_seed(seed, call.weight, len(targets[call.call])))
            positions[call.call].append(sampled)
            targets[call.call].append(rows_at(value, sampled))
            return out

        return keep

    def at_target(call: LayerCall) -> Any:
        keep = write(call)
        return lambda func, args, kwargs: keep(lambda: func(*args, **kwargs))

    handlers = {call.call: read(call) for call in calls}
    handlers.update({call.target: at_target(call) for call in calls if call.target != call.call})
    for start in range(0, len(images), batch):
        with OperationTap(handlers):
            model(images[start : start + batch])
    return Calibration(
        {number: total[0] for number, total in moments.items()},
        {number: torch.cat(parts) for number, parts in targets.items()},
        {number: torch.cat(parts) for number, parts in positions.items()},
    )


def _input_argument(func: Any) -> int:
    return 1 if func._schema.name == "aten::addmm" else 0


def _sample_positions(value: Tensor, per_image: int, seed: int) -> Tensor:
    """Returns (B, p) flat positions of a (B, o, *) output, drawn without replacement for each image."""
    available = value.shape[2:].numel() if value.dim() > 2 else 1
    if per_image >= available:
        return torch.arange(available, device=value.device).expand(len(value), available).contiguous()
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(len(value), available, generator=generator).argsort(dim=1)[:, :per_image]
    return order.sort(dim=1).values.to(value.device)


def rows_at(value: Tensor, positions: Tensor) -> Tensor:
    """Returns (B, p, o) the values of a (B, o, *) tensor at (B, p) flat positions."""
    if value.dim() == 2:
        return value[:, None, :].clone()
    flat = value.flatten(2)
    index = positions[:, None, :].expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).transpose(1, 2).contiguous()


def patches_at(x: Tensor, positions: Tensor, conv: Mapping[str, Any]) -> Tensor:
    """Returns (B, p, n * kernel area) the input patches under (B, p) flat output positions of a convolution.

    Args:
        x: (B, n, H, W) input.
        positions: flat output positions.
        conv: `kernel`, `stride`, `padding`, `dilation`: pairs; `width`: columns of the output map.
    """
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (conv[key] for key in ("kernel", "stride", "padding", "dilation"))
    if ph or pw:
        x = torch.nn.functional.pad(x, [pw, pw, ph, ph])
    columns = x.shape[3]
    row, column = positions // conv["width"], positions % conv["width"]
    base = row * sh * columns + column * sw
    offsets = (
        torch.arange(kh, device=x.device)[:, None] * dh * columns + torch.arange(kw, device=x.device) * dw
    ).flatten()
    index = (base[:, :, None] + offsets).flatten(1)
    flat = x.flatten(2)
    taken = flat.gather(2, index[:, None, :].expand(-1, flat.shape[1], -1))
    batch, count = positions.shape
    return taken.view(batch, flat.shape[1], count, kh * kw).permute(0, 2, 1, 3).reshape(batch, count, -1)


def to_numpy(tensor: Tensor) -> npt.NDArray[np.float64]:
    """Returns a float64 numpy copy."""
    return tensor.detach().cpu().double().numpy()
