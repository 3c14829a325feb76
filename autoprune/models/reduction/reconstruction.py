"""Sequential reconstruction: a cut network is made to follow the dense one layer by layer, in closed form.

In forward order, each layer's whole kernel (patches, bias, batch norm folded in) is solved so that, fed with the cut
network's own activations, the end of its chain (convolution, batch norm, addition of the shortcut) matches the dense
network's. Errors made upstream are so corrected downstream. One forward of the calibration images, no gradient.

Notation:
    U   (r, d + 1)  sampled input patches of the cut network with a column of ones; d = kept inputs x kernel area
    T   (r, o)      dense values at the end of the chain, less what the other stream adds in the cut network
    A   (d + 1, o)  kernel and bias with batch norm folded in: argmin |U A - T|^2 / r + ridge |A - A0|^2
    A0  (d + 1, o)  the same of the sliced network

The batch norm stays in place, with the statistics of the new output and a scale and shift that leave eval mode
unchanged: folded away, the network is as good until the first training step ruins it (14.7 % after one epoch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.models.cutting.surgery import Kept, Mask, named_tensors
from autoprune.models.network import LayerCall, LayerKind, TracedNetwork
from autoprune.models.reduction.calibration import Calibration, output_extents, rows_at, sampled_inputs, solvable
from autoprune.models.reduction.ridge import ridge_solution
from autoprune.models.watching.operations import ChainTap, Handler, LayerOperands, Operation, OperationTap
from autoprune.tasks.detectors import raw_outputs

#: Ridge towards the sliced weights, relative to the mean second moment of the patches.
RIDGE = 1e-2


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

    Batch norms outside of solved chains (behind depthwise convolutions, in front of layers) get the statistics of what
    reaches them, those that run more than once the mean over their calls. Without a cut group nothing changes.

    Args:
        cut_model: what `cut` returned.
        network: the trace of the dense network.
        kept: the kept channels that the network was cut to.
        calibration: statistics of the dense network on `images`.
        images: (B, C, H, W) the images that the calibration was gathered on, in the same order.
        ridge: damping towards the sliced weights.

    Raises:
        ModelError: the cut network runs other operations on these images than the dense one did on one image.
    """
    cut_model.eval()
    masks, tensors = kept.masks(network), named_tensors(cut_model)
    solvers: list[_LayerSolver] = []
    disturbed: int | None = None
    for call in network.calls:
        if disturbed is None and call.input is not None and _is_cut(network, call.input, masks):
            disturbed = call.call
        if disturbed is not None and solvable(call) and call.call in calibration.targets:
            rows = torch.from_numpy(network.channels[call.output].kept(masks)).to(images.device)
            solver = _solver(call, tensors, calibration, rows=rows, ridge=ridge)
            solvers.extend([] if solver is None else [solver])
    if disturbed is None:
        return cut_model
    refresher = _NormRefresher(network, tensors, disturbed)
    _solve_all(cut_model, images, solvers, refresher)
    if refresher.settle():
        # What lies behind saw norms that ran on the statistics of each call; now it sees those that they will run on.
        behind = [solver for solver in solvers if solver.call.call > refresher.first]
        _solve_all(cut_model, images, behind, refresher)
    strayed = [solver.call.layer for solver in solvers if solver.broken or not solver.finished]
    if strayed:
        raise ModelError(
            f"The network cannot be reconstructed: {strayed[0]!r} does not run in its place on {len(images)} images, "
            "as it does on one. Make the forward independent of the batch size, or merge by least squares."
        )
    return cut_model


def _is_cut(network: TracedNetwork, channels: int, masks: Sequence[Mask]) -> bool:
    layout = network.channels[channels]
    return any(not masks[group].all() for group in layout.members)


def _solve_all(
    cut_model: nn.Module, images: Tensor, solvers: Sequence[_LayerSolver], refresher: _NormRefresher
) -> None:
    """Runs a forward in which the layers of these solvers are solved, and other batch norms refreshed."""
    handlers: dict[int, Handler] = {}
    for solver in solvers:
        handlers.update(solver.handlers())
    with OperationTap(handlers, norms=refresher):
        raw_outputs(cut_model, images)


class _NormRefresher:
    """Gives each batch norm the statistics of its input, then runs it.

    One that runs several times a forward (in a network that is shared by several views of an image) runs on the
    statistics of each call, as in training, and gets their mean over all calls when it is settled.

    Args:
        network: the trace of the dense network.
        tensors: of the cut one.
        first: number of the first operation behind a cut; norms in front of it keep their statistics.

    Attributes:
        first: the same; once norms are settled, the first operation of one of them.
    """

    def __init__(self, network: TracedNetwork, tensors: Mapping[str, Tensor], first: int) -> None:
        self.first = first
        self._own = {tensor.data_ptr() for tensor in tensors.values()}
        repeated = network.repeated_norms.items()
        self._repeated = {tensors[name].data_ptr() for name, last in repeated if last >= first}
        # In front of every cut.
        self._own -= {tensors[name].data_ptr() for name, last in repeated if last < first}
        #: {where the running mean lies: the running statistics, number and statistics of every call}.
        self._calls: dict[int, tuple[Tensor, Tensor, list[tuple[int, Tensor, Tensor]]]] = {}

    def __call__(self, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, *parameters = args[:5]
        known = [item.data_ptr() in self._own for item in parameters if isinstance(item, Tensor)]
        mean, variance = parameters[2:]
        # Statistics that the forward computes (instance norm repeats them) are no norm's own.
        if mean is None or variance is None or not all(known):
            return func(*args, **kwargs)
        if not any(isinstance(item, Tensor) and item.data_ptr() in self._repeated for item in parameters):
            if number >= self.first:
                _set_statistics(mean, variance, x)
            return func(*args, **kwargs)
        own_mean, own_variance = mean.clone(), variance.clone()
        _set_statistics(own_mean, own_variance, x)
        self._calls.setdefault(mean.data_ptr(), (mean, variance, []))[2].append((number, own_mean, own_variance))
        rows = x.numel() // max(1, x.shape[1])
        # Training divides by the biased variance and remembers the other; a single row has none and leaves it alone.
        biased = own_variance * ((rows - 1) / rows) if rows > 1 else own_variance
        return func(*args[:3], own_mean, biased, *args[5:], **kwargs)

    def settle(self) -> bool:
        """Gives norms that ran more than once their statistics, which they keep from now on; returns whether any did.

        Their variance is the mean of the calls' variances, as training keeps it.
        """
        for mean, variance, calls in self._calls.values():
            mean.copy_(torch.stack([item for _, item, _ in calls]).mean(0))
            variance.copy_(torch.stack([item for _, _, item in calls]).mean(0))
        self.first = min([calls[0][0] for _, _, calls in self._calls.values()], default=self.first)
        self._own -= self._repeated
        return bool(self._calls)


def _set_statistics(mean: Tensor, variance: Tensor, x: Tensor) -> None:
    """Sets (n,) running statistics to those of a (B, n, *) input, the variance unbiased as batch norm keeps it."""
    if x.numel() > x.shape[1]:
        # 8 times faster than `Tensor.var`, which is not vectorised over channels on the CPU.
        torch.batch_norm_update_stats(x, mean, variance, 1.0)
    else:
        mean.copy_(x.flatten())


class _LayerSolver(ChainTap):
    """Solves one layer when the end of its chain is reached."""

    def __init__(
        self, call: LayerCall, weight: Tensor, calibration: Calibration, *, rows: Tensor, ridge: float
    ) -> None:
        super().__init__(call, weight)
        self._targets = calibration.targets[call.call]
        self._positions = calibration.positions[call.call]
        self._rows = rows
        self._ridge = ridge
        self._operands: LayerOperands | None = None

    def begin(self, operands: LayerOperands) -> bool:
        """Remembers what the layer reads until the end of its chain."""
        per_image = len(operands.input) // len(self._positions) if self.call.kind is LayerKind.LINEAR else 1
        self._operands = operands
        return len(operands.input) == per_image * len(self._positions)

    def output(self, layer: Operation) -> Tensor:
        """Returns any values of the right shape: only the end of the chain is read, and that is computed anew."""
        if self.call.kind is LayerKind.LINEAR:
            return super().output(layer)
        x: Tensor = layer.args[0]
        weight: Tensor = layer.args[1]
        stride, padding, dilation = layer.args[3:6]
        extents = output_extents(x.shape[2:], weight.shape[2:], stride=stride, padding=padding, dilation=dilation)
        shape = (len(x), len(weight), *extents)
        # An addition in place may write into it directly; a batch norm in between needs no memory.
        return x.new_zeros(()).expand(shape) if self.call.norm_call is not None else x.new_empty(shape)

    def normed(self, norm: Operation) -> Any:
        """Returns any values of the right shape, in memory that an addition in place may write into."""
        first: Tensor = norm.args[0]
        # One image tells what else the operation returns.
        made = norm.again(first[:1])
        value = torch.empty_like(first, memory_format=torch.contiguous_format)
        return (value, *made[1:]) if isinstance(made, tuple) else value

    def end(self, value: Tensor) -> Tensor:
        """Solves a chain without addition."""
        del value
        return self._solve(None)

    def join(self, addition: Operation) -> Tensor:
        """Solves a chain that ends in an addition, for what the other stream leaves to it."""
        left, right = addition.args
        other = right if self.call.first_operand else left
        total: Tensor = self._solve(other) + other
        if not addition.func._schema.name.endswith("_"):
            return total
        assert isinstance(left, Tensor)
        return left.copy_(total)

    def _solve(self, other: Tensor | None) -> Tensor:
        """Sets the layer's new weights and returns its chain's output, without the other stream."""
        layer, norm, operands = self.layer, self.norm, self._operands
        # The solver outlives the forward; what it holds of the activations must not.
        self.layer = self.norm = self._operands = None
        assert layer is not None
        assert operands is not None
        whole = len(self._rows) == self._targets.shape[2]
        target = self._targets if whole else self._targets.index_select(2, self._rows)
        floor = torch.zeros_like(target) if self.call.rectified else None
        if other is not None:
            added = rows_at(other, self._positions)
            target = target - added
            floor = None if floor is None else -added
        folded = _Folded.of(operands, norm)
        shifted = norm is not None or operands.bias is not None
        solution = ridge_solution(
            self._patches(layer, operands.input).flatten(0, 1),
            target.flatten(0, 1),
            folded.kernel if shifted else folded.kernel[:-1],
            ridge=self._ridge,
            floor=None if floor is None else floor.flatten(0, 1),
        )
        return _install(solution, folded.scale, layer=layer, operands=operands, norm=norm)

    def _patches(self, layer: Operation, x: Tensor) -> Tensor:
        """Returns (B, p, d) the input patches of the sampled positions."""
        return sampled_inputs(self.call, layer.args, x, self._positions)


class _ConstantSolver(_LayerSolver):
    """Solves a convolution with no input left: it adds a constant, and the best one is the mean of what is missing.

    Such a layer runs no convolution, but marks its place with an operation on nothing (`models.modules.hollow`).
    """

    def __init__(
        self,
        call: LayerCall,
        weight: Tensor,
        calibration: Calibration,
        *,
        rows: Tensor,
        ridge: float,
        bias: Tensor | None,
    ) -> None:
        super().__init__(call, weight, calibration, rows=rows, ridge=ridge)
        self._bias = bias

    def _at_layer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bias = self._bias
        self._operands = LayerOperands(args[0], self._weight, bias)
        self.layer = Operation(lambda: None if bias is None else bias.reshape(1, -1, 1, 1), (), {})
        if self.call.target == self.call.call:
            # The layer reads its bias only after its mark.
            self.finished = True
            self._solve(None)
        return func(*args, **kwargs)

    def _at_norm(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._last = args[0]
        self.layer = Operation(lambda: args[0], (), {})
        return super()._at_norm(func, args, kwargs)

    def _at_join(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.norm is None and self.layer is not None:
            self._last = args[0 if self.call.first_operand else 1]
        return super()._at_join(func, args, kwargs)

    def _patches(self, layer: Operation, x: Tensor) -> Tensor:
        del layer
        return x.new_zeros((*self._positions.shape, 0))


def _solver(
    call: LayerCall, tensors: Mapping[str, Tensor], calibration: Calibration, *, rows: Tensor, ridge: float
) -> _LayerSolver | None:
    """Returns what solves a layer of the cut network, None where nothing is left to solve."""
    weight = tensors[call.weight]
    if len(rows) == 0:
        return None
    if weight.numel() or call.kind is LayerKind.LINEAR:
        return _LayerSolver(call, weight, calibration, rows=rows, ridge=ridge)
    bias = None if call.bias is None else tensors[call.bias]
    if bias is None and call.norm is None:
        return None
    return _ConstantSolver(call, weight, calibration, rows=rows, ridge=ridge, bias=bias)


@dataclass(frozen=True, eq=False)
class _Folded:
    """A layer with its batch norm folded in.

    Attributes:
        kernel: (d + 1, o) float64 weights in the order of `patches_at`, the last row the bias.
        scale: (o,) float64 factor of the batch norm, 1 where there is none.
    """

    kernel: Tensor
    scale: Tensor

    @classmethod
    def of(cls, operands: LayerOperands, norm: Operation | None) -> _Folded:
        """Returns the layer as it is."""
        flat = operands.weight.movedim(1, -1).flatten(1).double()
        bias = operands.bias
        shift = torch.zeros(len(flat), dtype=torch.float64, device=flat.device) if bias is None else bias.double()
        scale = torch.ones_like(shift)
        if norm is not None:
            weight, beta, mean, variance = (item.double() for item in norm.args[1:5])
            scale = weight / (variance + norm.args[-1]).sqrt()
            shift = (shift - mean) * scale + beta
        return cls(torch.cat([(flat * scale[:, None]).T, shift[None]]), scale)


def _install(
    solution: Tensor, scale: Tensor, *, layer: Operation, operands: LayerOperands, norm: Operation | None
) -> Tensor:
    """Writes a (d + 1, o) solution, (d, o) without bias and norm, into layer and norm; returns their new output."""
    weight, bias = operands.weight, operands.bias
    kernel = solution if norm is None and bias is None else solution[:-1]
    if norm is None:
        weight.copy_(_as_weight(kernel, weight))
        if bias is not None:
            bias.copy_(solution[-1])
        out: Tensor = layer.again()
        return out
    # Keep the dense network's split between kernel and batch norm, which training is used to, where it is sane.
    sane = scale.abs() > 1e-2 * scale.abs().median()
    gauge = torch.where(sane, scale, torch.ones_like(scale))
    weight.copy_(_as_weight(kernel / gauge, weight))
    made = _applied(solution, layer=layer, operands=operands)
    gamma, beta, mean, variance = norm.args[1:5]
    # The batch norm will read (made - shift) / gauge + bias: what the layer puts out without the folded norm.
    _set_statistics(mean, variance, made)
    offset = (mean.double() - solution[-1]) / gauge
    mean.copy_(offset if bias is None else offset + bias.double())
    variance.copy_(variance.double() / gauge.square())
    gamma.copy_(gauge * (variance.double() + norm.args[-1]).sqrt())
    beta.copy_(solution[-1] + gauge * offset)
    return made


def _as_weight(kernel: Tensor, weight: Tensor) -> Tensor:
    """Returns a (d, o) kernel as an (o, n, *) weight."""
    return kernel.T.reshape(len(weight), *weight.shape[2:], weight.shape[1]).movedim(-1, 1)


def _applied(solution: Tensor, *, layer: Operation, operands: LayerOperands) -> Tensor:
    """Returns what the layer puts out with a (d + 1, o) kernel and bias."""
    x, weight = operands.input, operands.weight
    kernel, bias = _as_weight(solution[:-1], weight).to(weight.dtype), solution[-1].to(weight.dtype)
    made: Tensor
    if weight.numel() == 0:
        made = layer.again()
        return bias.view(-1, *[1] * (made.dim() - 2)).expand_as(made).clone()
    if weight.dim() == 2:
        return torch.addmm(bias, x, kernel.T)
    made = layer.func(x, kernel.contiguous(), bias, *layer.args[3:], **layer.kwargs)
    return made
