"""PSAP: prune and train in turns, each layer's share from its own weights, with a way back for filters of use.

Of the paper (arXiv 2303.11881) only the abstract could be had: the pruning ratio of a layer is adjusted before every
pruning step from its weight sparsity ratio; a protective reconstruction supervises gradients, so that important filters
are not lost. Formulas, thresholds and schedules below are [OURS]; what a secondary summary adds (gradient magnitudes, a
pulse of supervision) is unverified.

Notation:
    m_j  gate of a channel, 0 or 1, where layers read it; before a ReLU a closed gate would have no gradient
    g_j  mean of dL/dm_j over the pulse: below zero where opening the gate would lower the loss
    WSR  weight sparsity ratio of a group: the share of its weights that are small
    p    share of a group that is cut, clip(lambda WSR, 0, p_max)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.cost import FloatArray
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.errors import ConfigError
from autoprune.methods.base import Pruned, Subject
from autoprune.methods.closing import choose_closed, protected_channels, sparsity_ratios
from autoprune.methods.filters import producer_filters
from autoprune.methods.options import refuse_published
from autoprune.methods.schedules import removed_share, require_schedule, space_at
from autoprune.methods.softly import (
    EditingHook,
    GroupAxes,
    Mask,
    clear_momentum,
    edit_count,
    group_axes,
    steps_of,
    train_with,
    training_recipe,
)
from autoprune.models.cutting.surgery import Kept, named_tensors
from autoprune.models.modules.portable import copied
from autoprune.models.network import Role, TracedNetwork
from autoprune.strategies.heuristics import bisected
from autoprune.training.hooks import TrainingState

SPARSITIES = ("global", "absolute", "filter")
PROTECTIONS = ("gate", "grad_norm", "none")
#: At most this share of a group is cut on account of its ratio; the projection onto the budget may cut more.
_LARGEST_CUT = 0.9
#: Weight of the old ratios in their moving average: without it they oscillate.
_INERTIA = 0.5
#: Share of a training from scratch that stays dense at first, as 10 of 200 epochs.
_DENSE_START = 0.05
#: Rate of a training from scratch, the usual one of CIFAR networks with batch norm.
_SCRATCH_RATE = 0.1


@dataclass(frozen=True)
class Psap:
    """Protective self-adaptive pruning [OURS]: see the module.

    A channel is closed by a gate instead of being zeroed. With batch norm behind a convolution a zeroed filter has no
    variance, and its gradient is inflated by 1 / sqrt(eps), 316-fold, so that it cannot be compared with others; with
    a shift below zero a ReLU blocks it for good. A closed gate keeps dL/dm comparable, and makes the trained network
    equal to the cut one: a zeroed filter would still emit the constant of its batch norm.

    Attributes:
        sparsity: `global` (a weight is small below one quantile of |w| / rms of its group), `absolute` (without the
            division) or `filter` (share of filters with a mean |w| under half of their layer's).
        protect: `grad_norm` (the literal reading: mean norm of a filter's weight gradient, so that filters under
            correction are not cut), `gate` (by g, which closed filters have too: the best tenth of them may come back)
            or `none`. Digits network, half the FLOPs, 5 epochs, hold-out, seeds 0 and 1, cut: none 97.6 and 97.8,
            grad_norm 96.9 and 97.1, gate 95.1 and 94.2; so short a training gives what comes back no time.
        kappa: a channel is protected above the mean plus so many deviations of the open channels' scores.
        pulse: mini-batches before each pruning step that gradients are averaged over.
        schedule: how the budget falls: `exp`, `linear`, `poly`, `cosine` or `const`.
        prune_share: share of the training after which the budget is reached; the rest recovers.
        edits_per_epoch: pruning steps per epoch; at least 8 in all.
        from_scratch: start from random weights, see `forget`; the first 5 % are dense then, and the labels alone are
            trained on.
        learning_rate: at its peak; 0 for that of finetuning, from scratch 0.1.
        batch_size: images per step; where no rate is given, few images are trained on in smaller ones.
        distillation: share of the dense network's divergence in the loss, from a checkpoint.
        as_published: an error: the paper's constants could not be had.
    """

    source: ClassVar[str] = "[OURS] on the abstract of PSAP (arXiv 2303.11881): no formula or constant could be had"
    trains: ClassVar[bool] = True

    sparsity: str = "global"
    protect: str = "grad_norm"
    kappa: float = 1.0
    pulse: int = 50
    schedule: str = "exp"
    prune_share: float = 0.6
    edits_per_epoch: float = 1.0
    from_scratch: bool = False
    learning_rate: float = 0.0
    batch_size: int = 128
    distillation: float = 0.9
    as_published: bool = False

    def __post_init__(self) -> None:
        refuse_published("psap", self.as_published)
        require_schedule(self.schedule)
        for value, known, name in ((self.sparsity, SPARSITIES, "sparsity"), (self.protect, PROTECTIONS, "protect")):
            if value not in known:
                raise ConfigError(f"Unknown {name} {value!r} of psap. Known: {', '.join(known)}.")
        if not 0 < self.prune_share <= 1:
            raise ConfigError(f"prune_share {self.prune_share!r} of psap must lie in (0, 1].")
        if self.pulse < 1:
            raise ConfigError(f"pulse {self.pulse!r} of psap must be at least 1.")

    def prune(self, subject: Subject) -> Pruned:
        """Trains a copy of the network behind gates; returns it with the channels whose gates are open."""
        recipe = training_recipe(
            subject,
            learning_rate=self.learning_rate or (_SCRATCH_RATE if self.from_scratch else 0.0),
            batch_size=self.batch_size,
            distillation=0.0 if self.from_scratch else self.distillation,
        )
        model = copied(subject.model)
        if self.from_scratch:
            forget(model, seed=subject.seed)
        hook = Gates(
            subject.network,
            subject.space,
            group_axes(subject.network),
            method=self,
            steps=steps_of(subject, recipe),
            edits=edit_count(subject.epochs, self.edits_per_epoch),
        )
        facts: dict[str, Any] = {"sparsity": self.sparsity, "protect": self.protect}
        if subject.epochs > 0:
            facts.update(train_with(subject, model, hook, recipe, distil=recipe.distillation > 0))
        with torch.no_grad():
            hook.settle(model)
        facts.update(reopened=hook.reopened, protected=hook.protected)
        return Pruned(Kept(tuple(np.flatnonzero(row) for row in hook.open)), model.eval(), facts=facts)


class Gates(EditingHook):
    """Closes and opens gates while the network trains.

    Attributes:
        open: per group the (N,) mask of open gates.
        reopened: how many gates were opened again so far.
        protected: how many times a channel was passed over because of its score.
        gates: per group the (N,) numbers, 1 where open, that the inputs of layers are multiplied by while it trains.
    """

    def __init__(
        self,
        network: TracedNetwork,
        space: SearchSpace,
        groups: Sequence[GroupAxes],
        *,
        method: Psap,
        steps: int,
        edits: int,
    ) -> None:
        """Plans the pruning steps.

        Args:
            network: the trace.
            space: legal structures within the final budget.
            groups: where the network's groups lie.
            method: its options.
            steps: optimiser steps of the whole training.
            edits: how many pruning steps.
        """
        super().__init__(steps=steps, edits=edits)
        self._network, self._space, self._groups, self._method = network, space, tuple(groups), method
        self.open: list[Mask] = [np.ones(group.width, dtype=bool) for group in groups]
        self.reopened = self.protected = 0
        self._finished = False
        self._ratios: FloatArray | None = None
        self.gates = [torch.ones(group.width) for group in groups]
        self._sums = [torch.zeros(group.width, dtype=torch.float64) for group in groups]
        self._seen = 0
        #: {tensor name: its values when channels of it were last closed}.
        self._shadows: dict[str, Tensor] = {}

    def begin(self, state: TrainingState) -> None:
        """Puts the gates into the network."""
        super().begin(state)
        self.gates = [torch.from_numpy(row.astype(np.float32)).to(state.device).requires_grad_() for row in self.open]
        tensors, seen = named_tensors(state.model), set()
        consumed = {name for axis in self._network.axes if axis.role is Role.CONSUMES for name in axis.names}
        for module in state.model.modules():
            if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or id(module) in seen:
                continue  # layers in TorchScript among them, whose parameters lie elsewhere
            seen.add(id(module))
            weight = module._parameters.get("weight")
            call = next((item for item in self._network.calls if tensors[item.weight] is weight), None)
            # Not where a depthwise layer only passes them on: two gates in a row have no gradient when closed.
            if call is not None and call.input is not None and call.weight in consumed:
                self._handles.append(module.register_forward_pre_hook(self._gating(module, call.input, state.device)))

    def _gating(
        self, layer: nn.modules.conv._ConvNd | nn.Linear, channels: int, device: torch.device
    ) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        """Returns a hook that multiplies a layer's input by the gates of the channels it reads."""
        layout = self._network.channels[channels]
        readers = []
        for group, gate in zip(self._groups, self.gates, strict=True):
            mine = layout.group == group.index
            if mine.any():
                places = torch.from_numpy(np.flatnonzero(mine)).to(device)
                readers.append((gate, places, torch.from_numpy(layout.channel[mine]).to(device)))
        width = len(layout.group)
        # Not by sizes: a sequence may be as long as it has channels.
        behind = 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)

        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            axis = inputs[0].ndim - 1 - behind
            if inputs[0].shape[axis] != width or not readers:
                return None
            factors = torch.ones(width, dtype=inputs[0].dtype, device=inputs[0].device)
            for gate, places, order in readers:
                factors = factors.index_put((places,), gate[order].to(factors.dtype))
            shape = [width if index == axis else 1 for index in range(inputs[0].ndim)]
            return (inputs[0] * factors.reshape(shape), *inputs[1:])

        return hook

    def watch(self, model: nn.Module, *, until_edit: int) -> None:
        """Adds the gradients of the last mini-batches before a pruning step up."""
        if until_edit < self._method.pulse and not self._finished:
            self._seen += 1
            if self._method.protect == "grad_norm":
                for total, norms in zip(self._sums, self._gradient_norms(model), strict=True):
                    total += norms
            else:
                for total, gate in zip(self._sums, self.gates, strict=True):
                    if gate.grad is not None:
                        total += gate.grad.detach().double().cpu()
        for gate in self.gates:
            gate.grad = None

    def edit(self, model: nn.Module, progress: float) -> None:
        """Takes a pruning step: ratios, candidates, protection, gates."""
        start = _DENSE_START if self._method.from_scratch else 0.0
        t = (progress - start) / (self._method.prune_share - start) if self._method.prune_share > start else 1.0
        if t <= 0 or self._finished:
            return
        self._step(model, space_at(self._space, removed_share(self._method.schedule, t)))
        self._finished = t >= 1

    def settle(self, model: nn.Module) -> None:
        """Takes the last pruning step, to the budget itself, unless it has been taken; silences what is closed."""
        if not self._finished:
            self._step(model, self._space)
            self._finished = True
        tensors = named_tensors(model)
        for group, alive in zip(self._groups, self.open, strict=True):
            # Without its gate a closed channel would come back to life: not zero alone, behind a sigmoid it is a half.
            for axis in (*group.makers, *group.readers):
                axis.clear(tensors[axis.name], ~alive)

    def close(self, model: nn.Module, index: int, closed: Mask) -> None:
        """Closes these (N,) gates of a group and opens its others; what opens is as it was when it closed."""
        group, before = self._groups[index], self.open[index]
        closing, opening = closed & before, ~closed & ~before
        tensors = named_tensors(model)
        for axis in group.makers:
            tensor = tensors[axis.name]
            if opening.any():
                axis.write(tensor, axis.rows(self._shadows[axis.name]), opening)
            if closing.any():
                shadow = self._shadows.setdefault(axis.name, tensor.detach().clone())
                axis.write(shadow, axis.rows(tensor), closing)
        # A filter that comes back starts from rest, and one that goes must not be carried on.
        clear_momentum(model, group, closing | opening, self.optimiser)
        self.reopened += int(opening.sum())
        self.open[index] = ~closed
        with torch.no_grad():
            self.gates[index].copy_(torch.from_numpy((~closed).astype(np.float32)))

    def state_dict(self) -> dict[str, Any]:
        """Returns gates, ratios, sums and shadows."""
        return {
            **super().state_dict(),
            "open": [row.tolist() for row in self.open],
            "counts": [self.reopened, self.protected, self._seen, int(self._finished)],
            "ratios": None if self._ratios is None else self._ratios.tolist(),
            "sums": [row.clone() for row in self._sums],
            "shadows": {name: value.clone() for name, value in self._shadows.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from there."""
        super().load_state_dict(state)
        self.open = [np.array(row, dtype=bool) for row in state["open"]]
        self.reopened, self.protected, self._seen = state["counts"][:3]
        self._finished = bool(state["counts"][3])
        self._ratios = None if state["ratios"] is None else np.array(state["ratios"])
        self._sums = [row.clone() for row in state["sums"]]
        self._shadows = {name: value.clone() for name, value in state["shadows"].items()}

    def _step(self, model: nn.Module, space: SearchSpace) -> None:
        filters = producer_filters(model, self._network, range(len(self._groups)))
        structure = self._widths(filters, space)
        for index, (rows, width) in enumerate(zip(filters, structure, strict=True)):
            norms = np.sqrt((rows**2).sum(1))
            safe = self._protected(index)
            closed = choose_closed(norms, safe, self.open[index], count=len(norms) - width)
            self.protected += int(safe.sum())
            self.close(model, index, closed)
        for total in self._sums:
            total.zero_()
        self._seen = 0

    def _widths(self, filters: Sequence[FloatArray], space: SearchSpace) -> Structure:
        fresh = sparsity_ratios(filters, self._method.sparsity)
        self._ratios = fresh if self._ratios is None else _INERTIA * self._ratios + (1 - _INERTIA) * fresh
        ratios = np.maximum(self._ratios, 1e-3)
        dense = np.array([group.width for group in self._groups], dtype=np.float64)

        def widths_of(knob: float) -> FloatArray:
            # The knob 0 means the largest lambda, at which every group loses p_max.
            lam = (1 - knob) * _LARGEST_CUT / ratios.min()
            kept: FloatArray = dense * (1 - np.clip(lam * ratios, 0.0, _LARGEST_CUT))
            return kept

        return bisected(space, widths_of)

    def _protected(self, index: int) -> Mask:
        """Returns the (N,) mask of channels that are not to be closed, or are to be opened."""
        alive = self.open[index]
        if self._method.protect == "none" or not self._seen:
            return np.zeros(len(alive), dtype=bool)
        mean = self._sums[index].numpy() / self._seen
        # Of a closed channel only the benefit of opening counts; of an open one any effect of closing.
        by_gate = np.where(alive, np.abs(mean), np.maximum(0.0, -mean))
        scores = mean if self._method.protect == "grad_norm" else by_gate
        threshold = scores[alive].mean() + self._method.kappa * scores[alive].std()
        return protected_channels(scores, alive, threshold=float(threshold))

    def _gradient_norms(self, model: nn.Module) -> list[Tensor]:
        """Returns per group (N,) the L2 norm of the gradient of the weights that produce each channel."""
        tensors, found = named_tensors(model), []
        for group in self._groups:
            total = torch.zeros(group.width, dtype=torch.float64)
            for axis in group.makers:
                gradient = tensors[axis.name].grad
                if gradient is not None and gradient.ndim > 1:
                    energy = axis.rows(gradient).double().flatten(1).pow(2).sum(1).cpu()
                    total.index_add_(0, torch.from_numpy(axis.channels), energy)
            found.append(total.sqrt())
        return found


def forget(model: nn.Module, *, seed: int) -> None:
    """Gives every layer that can draw them new random weights, in place, and shuffles all other parameters.

    Layers do not reach the weights that a parametrization computes theirs from, nor `nn.MultiheadAttention` its
    projections, and a network's own parameters nobody knows how to draw. A random order of their values leaves nothing
    of what was learnt but the values' distribution; a single number stays.
    """
    trained = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        for parameter, values in trained:
            if torch.equal(parameter, values):
                order = torch.randperm(values.numel()).to(values.device)
                parameter.copy_(values.flatten()[order].reshape(values.shape))
