"""Sequential reconstruction: a cut network is made to follow the dense one layer by layer, in closed form.

In forward order, each layer's whole kernel (patches, bias, batch norm folded in) is solved so that, fed with the cut
network's own activations, the end of its chain (convolution, batch norm, addition of the shortcut) matches the dense
network's. Errors made upstream are so corrected downstream. One forward of the calibration images, no gradient.

Notation:
    U   (r, d + 1)  sampled input patches of the cut network with a column of ones; d = kept inputs x kernel area
    T   (r, o)      dense values at the end of the chain, less what the other stream adds in the cut network
    A   (d + 1, o)  kernel and bias with batch norm folded in: argmin |U A - T|^2 / r + ridge |A - A0|^2
    A0  (d + 1, o)  the same of the sliced network

Where a ReLU reads the end of the chain, values at which the dense unit is silent only have to stay below zero
(asymmetric reconstruction, Zhang et al. 2016): T is replaced by min(U A, floor) there, and A solved again, a few times.

The batch norm stays in place, with the statistics of the new output and a scale and shift that leave eval mode
unchanged: folded away, the network is as good until the first training step ruins it (14.7 % after one epoch).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.models.calibration import Calibration, patches_at, rows_at, solvable
from autoprune.models.network import LayerCall, LayerKind, TracedNetwork
from autoprune.models.operations import Handler, OperationTap
from autoprune.models.surgery import Kept

#: Ridge towards the sliced weights, relative to the mean second moment of the patches.
RIDGE = 1e-2
#: Sweeps of the alternating minimisation behind a ReLU.
RECTIFIED_SWEEPS = 2


@torch.no_grad()
def reconstruct(
    cut_model: nn.Module,
    network: TracedNetwork,
    kept: Kept,
    calibration: Calibration,
    images: Tensor,
    *,
    ridge: float = RIDGE,
) -> nn.Module:
    """Solves the layers of a cut network in place and returns it, in eval mode.

    Args:
        cut_model: what `cut` returned.
        network: the trace of the dense network.
        kept: the kept channels that the network was cut to.
        calibration: statistics of the dense network on `images`.
        images: (B, C, H, W) the images that the calibration was gathered on, in the same order.
        ridge: damping towards the sliced weights.
    """
    cut_model.eval()
    masks = kept.masks(network)
    handlers: dict[int, Handler] = {}
    disturbed = False
    for call in network.calls:
        cut_input = call.input is not None and _is_cut(network, call.input, masks)
        disturbed |= cut_input
        if disturbed and solvable(call) and call.call in calibration.targets:
            rows = network.channels[call.output].kept(masks)
            solver = _LayerSolver(cut_model, call, calibration, torch.from_numpy(rows).to(images.device), ridge)
            handlers.update(solver.handlers())
        disturbed |= _is_cut(network, call.output, masks)
    with OperationTap(handlers):
        cut_model(images)
    return cut_model


def _is_cut(network: TracedNetwork, channels: int, masks: Any) -> bool:
    layout = network.channels[channels]
    return any(not masks[group].all() for group in layout.members)


class _LayerSolver:
    """Solves one layer when the end of its chain is reached."""

    def __init__(self, model: nn.Module, call: LayerCall, calibration: Calibration, rows: Tensor, ridge: float) -> None:
        self._call = call
        self._layer = model.get_submodule(call.layer)
        self._norm = model.get_submodule(call.norm.rpartition(".")[0]) if call.norm is not None else None
        self._targets = calibration.targets[call.call]
        self._positions = calibration.positions[call.call]
        self._rows = rows
        self._ridge = ridge
        self._input: Tensor | None = None
        self._conv: tuple[Any, ...] = ()

    def handlers(self) -> dict[int, Handler]:
        """Returns what to run in place of the layer and of the end of its chain."""
        call = self._call
        if call.target == call.call:
            return {call.call: self._alone}
        return {call.call: self._read, call.target: self._at_join if call.joins else self._at_norm}

    def _read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._remember(func, args)
        if self._call.kind is not LayerKind.CONV:
            return func(*args, **kwargs)
        # Nothing but the end of the chain reads this output, and that is computed anew: any values will do.
        x, weight = args[0], args[1]
        return x.new_zeros(()).expand(len(x), weight.shape[0], *self._output_size(x))

    def _remember(self, func: Any, args: tuple[Any, ...]) -> None:
        self._input = args[1 if func._schema.name == "aten::addmm" else 0]
        self._conv = args if self._call.kind is LayerKind.CONV else ()

    def _alone(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._remember(func, args)
        return self._solve(None)

    def _at_norm(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        new = self._solve(None)
        return (new, *out[1:]) if isinstance(out, tuple) else new

    def _at_join(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        other = args[1] if self._call.first_operand else args[0]
        new = self._solve(other) + other
        return args[0].copy_(new) if func._schema.name.endswith("_") else new

    def _solve(self, other: Tensor | None) -> Tensor:
        """Sets the layer's new weights and returns its chain's output, without the other stream."""
        assert self._input is not None
        x, self._input = self._input, None
        target = self._targets.index_select(2, self._rows)
        floor = torch.zeros_like(target) if self._call.rectified else None
        if other is not None:
            added = rows_at(other, self._positions)
            target = target - added
            floor = None if floor is None else -added
        rows = self._patches(x).flatten(0, 1)
        if self._norm is not None or _tensors(self._layer)[1] is not None:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        moments = (rows.T @ rows).double() / len(rows)
        sliced, scale = self._folded()
        solution = _ridge_solution(
            rows,
            target.flatten(0, 1),
            sliced[: rows.shape[1]],
            moments=moments,
            ridge=self._ridge,
            floor=None if floor is None else floor.flatten(0, 1),
        )
        self._install(solution, moments, scale)
        out: Tensor = self._layer(x)
        return out if self._norm is None else self._norm(out)

    def _patches(self, x: Tensor) -> Tensor:
        if not self._conv:
            return x[:, None, :]
        weight, stride, padding, dilation = self._conv[1], self._conv[3], self._conv[4], self._conv[5]
        width = self._output_size(x)[1]
        sizes = {"kernel": weight.shape[2:], "stride": stride, "padding": padding, "dilation": dilation, "width": width}
        return patches_at(x, self._positions, sizes)

    def _output_size(self, x: Tensor) -> tuple[int, int]:
        weight, stride, padding, dilation = self._conv[1], self._conv[3], self._conv[4], self._conv[5]
        height, width = (
            (x.shape[2 + side] + 2 * padding[side] - dilation[side] * (weight.shape[2 + side] - 1) - 1) // stride[side]
            + 1
            for side in (0, 1)
        )
        return height, width

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Returns ((d + 1, o) folded weights, (o,) batch-norm scale) of the layer as it is."""
        weight, bias = _tensors(self._layer)
        flat = weight.flatten(1).double()
        shift = torch.zeros(len(flat), dtype=torch.float64, device=flat.device) if bias is None else bias.double()
        scale = torch.ones_like(shift)
        if self._norm is not None:
            norm = _norm_tensors(self._norm)
            scale = norm["weight"] / (norm["running_var"] + self._norm.eps).sqrt()
            shift = (shift - norm["running_mean"]) * scale + norm["bias"]
        return torch.cat([(flat * scale[:, None]).T, shift[None]]), scale

    def _install(self, solution: Tensor, moments: Tensor, scale: Tensor) -> None:
        """Writes a solution into kernel, bias and batch norm; `moments` are (d + 1, d + 1), those of U."""
        weight, bias = _tensors(self._layer)
        if self._norm is None:
            kernel = solution if bias is None else solution[:-1]
            weight.copy_(kernel.T.reshape(weight.shape))
            if bias is not None:
                bias.copy_(solution[-1])
            return
        kernel, shift = solution[:-1], solution[-1]
        # Keep the dense network's split between kernel and batch norm, which training is used to, where it is sane.
        sane = scale.abs() > 1e-2 * scale.abs().median()
        gauge = torch.where(sane, scale, torch.ones_like(scale))
        weight.copy_((kernel / gauge).T.reshape(weight.shape))
        mean = moments[-1, :-1] @ kernel
        variance = ((moments[:-1, :-1] @ kernel) * kernel).sum(0) - mean**2
        variance = variance.clamp_min(0) / gauge**2
        norm = self._norm
        deviation = (variance + norm.eps).sqrt()
        offset = torch.zeros_like(mean) if bias is None else bias.double()
        norm.running_mean.copy_(mean / gauge + offset)
        norm.running_var.copy_(variance)
        norm.weight.copy_(gauge * deviation)
        norm.bias.copy_(mean + shift)


def _tensors(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    return weight, bias if isinstance(bias, Tensor) else None


def _norm_tensors(norm: nn.Module) -> Mapping[str, Tensor]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {name: getattr(norm, name).double() for name in names}


def _ridge_solution(
    U: Tensor, target: Tensor, sliced: Tensor, *, moments: Tensor, ridge: float, floor: Tensor | None
) -> Tensor:
    """Returns (d + 1, o): the least-squares kernel and bias, damped towards the sliced ones.

    Args:
        U: (r, d + 1) patches with their column of ones (without one where the layer cannot take a bias).
        target: (r, o) T.
        sliced: (d + 1, o) A0.
        moments: (d + 1, d + 1) U^T U / r.
        ridge: the damping.
        floor: (r, o) where a ReLU follows, the value at or below which its output is 0; None where none follows.
    """
    damping = ridge * moments.diagonal().mean().clamp_min(1e-30)
    factor = torch.linalg.cholesky(
        moments + damping * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    )
    pull = damping * sliced
    solution = torch.cholesky_solve((U.T @ target).double() / len(U) + pull, factor)
    if floor is None:
        return solution
    silent = target <= floor
    for _ in range(RECTIFIED_SWEEPS):
        # Where the dense unit is silent any value below the floor is as good: aim at the one that is easiest to meet.
        eased = torch.where(silent, torch.minimum(U @ solution.to(U.dtype), floor), target)
        solution = torch.cholesky_solve((U.T @ eased).double() / len(U) + pull, factor)
    return solution
