"""Gates on the channels that consumers read, closed and reopened while a network trains (PSAP, our definition).

A gate multiplies a channel at the input of every consumer, behind batch norm and ReLU. So a network with closed gates
is the cut network, whatever constant a pruned filter would still have emitted and whatever padding would do to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.cost import FloatArray
from autoprune.core.space import SearchSpace
from autoprune.methods.schedules import removed_share, space_at
from autoprune.methods.softly import EditingHook, GroupAxes, Mask, clear_momentum, group_axes
from autoprune.methods.weight_sparsity import pruned_shares
from autoprune.models.network import Role, TracedNetwork
from autoprune.models.selection import filter_norms
from autoprune.models.surgery import Kept, named_tensors
from autoprune.training.hooks import TrainingState

PROTECTIONS = ("gate", "grad_norm", "none")
#: Weight of the newest layer ratios against those before it, against oscillation.
_NEWEST = 0.5

Sparsity = Callable[[nn.Module, Sequence[GroupAxes], float], FloatArray]


@dataclass(frozen=True, slots=True)
class Protection:
    """What keeps a channel from being pruned, or brings it back.

    Attributes:
        by: one of `PROTECTIONS`.
        pulse: mini-batches before an edit that count.
        kappa: standard deviations above the mean score of open channels.
        rho: share of closed channels, the best scored, that is reopened.
    """

    by: str
    pulse: int
    kappa: float
    rho: float

    def protected(self, scores: FloatArray, open_: Mask) -> Mask:
        """Returns the (N,) channels that are not to be pruned now.

        Args:
            scores: (N,), at least 0.
            open_: (N,) whether the channel is in use.
        """
        if self.by == "none" or not open_.any():
            return np.zeros(len(scores), dtype=bool)
        threshold = scores[open_].mean() + self.kappa * scores[open_].std()
        found: Mask = scores >= threshold if self.by == "grad_norm" else scores > threshold
        if threshold <= 0:
            found = np.zeros(len(scores), dtype=bool)
        best = int(self.rho * np.count_nonzero(~open_))
        if self.by == "gate" and best:
            closed = np.where(open_, -1.0, scores)
            chosen = np.argsort(-closed, kind="stable")[:best]
            found[chosen[closed[chosen] > 0]] = True
        return found


def chosen_channels(norms: FloatArray, count: int, protected: Mask, scores: FloatArray) -> Mask:
    """Returns the (N,) mask of `count` channels to prune: of smallest norm, passing over protected ones.

    Where too few are left unprotected the least scored follow, so that the count is honoured.
    """
    by_norm = [int(j) for j in np.argsort(norms, kind="stable") if not protected[j]]
    by_score = [int(j) for j in np.argsort(scores, kind="stable") if protected[j]]
    mask = np.zeros(len(norms), dtype=bool)
    mask[(by_norm + by_score)[:count]] = True
    return mask


class ProtectedGates(EditingHook):
    """Prunes, protects and restores channels at the edits of a training.

    Protected by gates, the filters behind a closed gate are frozen and keep their weights; protected by gradient norms
    or not at all, they are zeroed and stay trainable (SFP), and gates close at the end. Either way weights and batch
    norm come back as they were when the channel was pruned, and momentum starts from zero.
    """

    def __init__(
        self,
        network: TracedNetwork,
        space: SearchSpace,
        *,
        steps: int,
        edits: int,
        sparsity: Sparsity,
        schedule: str,
        begin: float,
        until: float,
        protection: Protection,
    ) -> None:
        """Plans the edits.

        Args:
            network: the trace of the network that will be trained.
            space: legal structures; pruning ends at its budget.
            steps: optimiser steps of the training.
            edits: how often to prune; so often that one falls on the end of pruning.
            sparsity: returns WSR per group for a network and the share of the cost removed.
            schedule: one of `SCHEDULES`.
            begin: share of the training that stays dense.
            until: share of the training after which gates are fixed.
            protection: of channels.
        """
        super().__init__(steps=steps, edits=edits)
        self._network = network
        self._space = space
        self._sparsity = sparsity
        self._schedule = schedule
        self._phase = (begin, max(until, begin))
        self._protection = protection
        self._groups = group_axes(network)
        self._open: list[Mask] = [np.ones(group.width, dtype=bool) for group in self._groups]
        self._shares: FloatArray | None = None
        self._shadows: list[dict[str, Tensor]] = [{} for _ in self._groups]
        self._scores: list[Tensor] = [torch.zeros(group.width) for group in self._groups]
        self._watched = 0
        self._fixed = False
        #: (sum of N + 1,) the gates of all groups, then the 1 of positions that are never cut.
        self._gates = torch.ones(0)
        self._starts = np.cumsum([0, *(group.width for group in self._groups)])
        self.restored = 0

    @property
    def kept(self) -> Kept:
        """The channels whose gates are open."""
        return Kept(tuple(np.flatnonzero(mask) for mask in self._open))

    @property
    def _gated(self) -> bool:
        return self._protection.by == "gate"

    def begin(self, state: TrainingState) -> None:
        """Puts gates before every consumer."""
        super().begin(state)
        self._gates = torch.ones(int(self._starts[-1]) + 1, device=state.device)
        self._show()
        self._handles += attach_gates(state.model, self._network, lambda: self._gates)

    def watch(self, model: nn.Module, *, until_edit: int) -> None:
        """Adds the gradients of a step of the pulse to the scores."""
        counts = until_edit < self._protection.pulse and not self._fixed and self._protection.by != "none"
        if counts:
            self._watched += 1
        grad = self._gates.grad
        for index, group in enumerate(self._groups if counts else ()):
            if not self._gated:
                score = gradient_norms(model, group)
            elif grad is not None:
                mine = slice(int(self._starts[index]), int(self._starts[index + 1]))
                slope, open_ = grad[mine], self._gates[mine].detach() > 0
                # An overflown half-precision step is skipped by the optimiser, too.
                score = torch.nan_to_num(torch.where(open_, slope.abs(), (-slope).clamp_min(0.0)), 0.0, 0.0, 0.0)
            else:
                continue
            self._scores[index] = self._scores[index].to(score.device) + score
        self._gates.grad = None

    def edit(self, model: nn.Module, progress: float) -> None:
        """Prunes to the budget of the time, unless gates are fixed."""
        begin, until = self._phase
        if progress <= begin or self._fixed:
            return
        # An edit later than which none falls into the phase is its last.
        following = progress + 1 / self.edits
        time = 1.0 if following > until + 1e-9 else (progress - begin) / (until - begin)
        self._prune(model, removed_share(self._schedule, time))
        self._fixed = time >= 1
        self._show()

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        """Brings the trained network onto the exact budget if the training was too short to."""
        if not self._fixed:
            self._prune(model, 1.0)
            self._fixed = True

    def state_dict(self) -> dict[str, Any]:
        """Returns gates, shadows, scores and how far the training has come."""
        return {
            **super().state_dict(),
            "open": [torch.from_numpy(mask.copy()) for mask in self._open],
            "shares": None if self._shares is None else torch.from_numpy(self._shares),
            "shadows": [dict(shadow) for shadow in self._shadows],
            "scores": list(self._scores),
            "watched": self._watched,
            "fixed": self._fixed,
            "restored": self.restored,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from there."""
        super().load_state_dict(state)
        self._open = [mask.cpu().numpy().copy() for mask in state["open"]]
        self._shares = None if state["shares"] is None else state["shares"].cpu().numpy().copy()
        self._shadows = [{name: rows.clone() for name, rows in shadow.items()} for shadow in state["shadows"]]
        self._scores = [score.clone() for score in state["scores"]]
        self._watched, self.restored = int(state["watched"]), int(state["restored"])
        self._fixed = bool(state["fixed"])

    def _prune(self, model: nn.Module, removed: float) -> None:
        if self._gated:
            # Weight decay has worked on the frozen filters: norms are compared as they were pruned.
            for group, shadow, open_ in zip(self._groups, self._shadows, self._open, strict=True):
                put_back(model, group, shadow, ~open_)
        space = space_at(self._space, removed)
        dense = np.asarray(space.dense.widths, dtype=np.float64)
        gone = 1 - space.limits[0].ceiling / float(getattr(space.cost_model.dense, space.limits[0].resource))
        newest = pruned_shares(space, self._sparsity(model, self._groups, gone))
        earlier = newest if self._shares is None else self._shares
        self._shares = _NEWEST * newest + (1 - _NEWEST) * earlier
        widths = space.project((dense * (1 - self._shares))[None])[0]
        for index, (group, width) in enumerate(zip(self._groups, widths, strict=True)):
            scores = (self._scores[index] / max(1, self._watched)).double().cpu().numpy()
            protected = self._protection.protected(scores, self._open[index])
            norms = filter_norms(model, self._network, index)
            pruned = chosen_channels(norms, group.width - width, protected, scores)
            self._turn(model, index, pruned)
            self._scores[index] = torch.zeros_like(self._scores[index])
        self._watched = 0

    def _turn(self, model: nn.Module, index: int, pruned: Mask) -> None:
        """Prunes the channels of the mask and restores the others of a group."""
        group, shadow, open_ = self._groups[index], self._shadows[index], self._open[index]
        closing, opening = open_ & pruned, ~open_ & ~pruned
        put_back(model, group, shadow, opening)
        store(model, group, shadow, closing)
        if not self._gated:
            zero_filters(model, group, pruned)
        # Momentum of a filter that is gone would move it, or its successor, without a gradient.
        clear_momentum(model, group, (pruned if not self._gated else closing) | opening, self.optimiser)
        self.restored += int(np.count_nonzero(opening))
        self._open[index] = ~pruned

    def _show(self) -> None:
        """Sets the gates to what is open, and lets them have gradients while these are wanted."""
        if not len(self._gates):
            return
        hard = self._gated or self._fixed
        flat = torch.from_numpy(np.concatenate([*self._open, np.ones(1, dtype=bool)]))
        self._gates.requires_grad_(False).copy_(flat if hard else torch.ones(len(flat)))
        self._gates.grad = None
        self._gates.requires_grad_(self._gated and not self._fixed)


def attach_gates(
    model: nn.Module, network: TracedNetwork, gates: Callable[[], Tensor]
) -> list[torch.utils.hooks.RemovableHandle]:
    """Multiplies what every consumer module reads by the gates of its input channels; returns the handles.

    A consumer that is no module (its weight is used by a function) is left out: its columns are zeroed with the cut.

    Args:
        model: the network.
        network: its trace.
        gates: returns (n + 1,) the gates of the channels of all groups, one after the other, and a 1.
    """
    consumed = {name for axis in network.axes if axis.role is Role.CONSUMES for name in axis.names}
    starts = np.cumsum([0, *(group.width for group in network.groups)])
    handles, seen = [], set()
    for call in network.calls:
        if call.input is None or call.weight not in consumed or call.layer in seen:
            continue
        module = model.get_submodule(call.layer) if call.layer != call.weight else None
        layout = network.channels[call.input]
        if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or not layout.members:
            continue
        seen.add(call.layer)
        # Positions that are never cut read the 1 behind the last gate.
        index = torch.from_numpy(np.where(layout.group < 0, starts[-1], starts[layout.group] + layout.channel))
        handles.append(module.register_forward_pre_hook(_gating(index, gates)))
    return handles


def _gating(index: Tensor, gates: Callable[[], Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
        x = args[0]
        factor = gates()[index.to(x.device)].to(x.dtype)
        if not isinstance(module, nn.Linear):
            factor = factor.reshape(-1, *[1] * (x.dim() - 2))
        return (x * factor, *args[1:])

    return hook


def gradient_norms(model: nn.Module, group: GroupAxes) -> Tensor:
    """Returns (N,) the L2 norm of the loss gradient of each channel's filters, over all producers."""
    tensors, names = named_tensors(model), {call.weight for call in group.calls}
    total = torch.zeros(group.width, device=_device(model))
    for axis in group.makers:
        grad = tensors[axis.name].grad
        if axis.name in names and grad is not None:
            energy = axis.rows(grad).flatten(1).float().pow(2).sum(1)
            total.index_add_(0, torch.from_numpy(axis.channels).to(total.device), energy)
    return total.sqrt()


def store(model: nn.Module, group: GroupAxes, shadow: dict[str, Tensor], channels: Mask) -> None:
    """Copies everything that makes the channels of an (N,) mask into the shadow."""
    if not channels.any():
        return
    tensors = named_tensors(model)
    for axis in group.makers:
        now = axis.rows(tensors[axis.name])
        known = shadow.setdefault(_key(axis.name, axis.axis), now.clone())
        chosen = torch.from_numpy(channels[axis.channels]).to(now.device)
        shadow[_key(axis.name, axis.axis)] = torch.where(
            chosen.reshape(-1, *[1] * (now.dim() - 1)), now, known.to(now.device)
        )


def put_back(model: nn.Module, group: GroupAxes, shadow: Mapping[str, Tensor], channels: Mask) -> None:
    """Writes the channels of an (N,) mask, all of them pruned before, back from the shadow."""
    if not channels.any():
        return
    tensors = named_tensors(model)
    for axis in group.makers:
        axis.write(tensors[axis.name], shadow[_key(axis.name, axis.axis)], channels)


def zero_filters(model: nn.Module, group: GroupAxes, channels: Mask) -> None:
    """Zeroes the filters of an (N,) mask in every producer; batch norm stays, as in SFP."""
    tensors, names = named_tensors(model), {call.weight for call in group.calls}
    for axis in group.makers:
        if axis.name in names:
            axis.clear(tensors[axis.name], channels)


def _key(name: str, axis: int) -> str:
    return f"{name}@{axis}"


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
