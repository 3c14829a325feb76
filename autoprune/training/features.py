"""Feature distillation: what the layers of a cut network read is held close to what they read in the dense one.

Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", equation 3: a thin network's feature maps are trained to be
those of its teacher, which a regressor, trained besides, brings to their width. A cut network needs none: the channels
that it keeps have their counterparts in the dense network. Departures: several maps, all of the same weight, each
distance relative to the variance of its map; and they stay in the loss to the end instead of coming before it.

Notation:
    F_l  (B, n, *)  what layer l reads in the network under training
    G_l  (B, N, *)  in the dense network on the same images, of which K_l are the n positions kept
    loss            weight x mean over l of |F_l - G_l[K_l]|^2 / var(G_l[K_l])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.models.network import IndexArray, LayerKind, TracedNetwork
from autoprune.models.surgery import Kept
from autoprune.training.hooks import Hook, TrainingState

_PreHook = Callable[[nn.Module, tuple[Any, ...]], None]

#: Of the features beside the distilled logits: ResNet-20-B ended the same, within the noise, with 30, 100 and 300.
FEATURE_WEIGHT = 100.0
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, eq=False)
class LayerInput:
    """What a layer reads, and where its channels lie in what the dense network's layer reads.

    Attributes:
        layer: qualified name of the module.
        axis: of the channels, counted from the end for linear layers.
        kept: (n,) ascending positions along the axis; None where all are kept.
    """

    layer: str
    axis: int
    kept: IndexArray | None


def layer_inputs(network: TracedNetwork, kept: Kept) -> tuple[LayerInput, ...]:
    """Returns what the layers of a network cut to `kept` read, in the order in which they run."""
    masks = kept.masks(network)
    found: dict[str, LayerInput] = {}
    for call in network.calls:
        layout = None if call.input is None else network.channels[call.input]
        rows = None if layout is None else layout.kept(masks)
        if layout is None or rows is None or len(rows) == 0:
            continue
        axis = -1 if call.kind is LayerKind.LINEAR else 1
        found[call.layer] = LayerInput(call.layer, axis, None if len(rows) == len(layout.group) else rows)
    return tuple(found.values())


class FeatureDistillation(Hook):
    """Adds the features' distance from the teacher's to the loss; nothing where a training has no teacher.

    Of each resolution the last map counts, as in attention transfer (Zagoruyko and Komodakis 2017): what the stages of
    a network end with. On ResNet-20-B they add a tenth to the time of a step; the maps that all blocks begin with added
    four tenths and led to as much.
    """

    def __init__(self, inputs: Sequence[LayerInput], *, weight: float = FEATURE_WEIGHT) -> None:
        self._inputs = tuple(inputs)
        self._weight = weight
        self._watched: list[_Watched] = []
        self._chosen = False

    @classmethod
    def of(cls, network: TracedNetwork, kept: Kept) -> FeatureDistillation:
        """Returns the hook for a training of what `network`, the trace of its teacher, becomes when cut to `kept`."""
        return cls(layer_inputs(network, kept))

    def begin(self, state: TrainingState) -> None:
        """Watches what the layers of both networks read; those that are no modules of both are not watched."""
        self._chosen = False
        if state.teacher is None:
            return
        modules, teachers = dict(state.model.named_modules()), dict(state.teacher.named_modules())
        for item in self._inputs:
            if item.layer in modules and item.layer in teachers:
                rows = None if item.kept is None else torch.from_numpy(item.kept).to(state.device)
                self._watched.append(_Watched(modules[item.layer], teachers[item.layer], rows, item.axis))

    def penalty(self) -> Tensor | None:
        """Returns the weighted distance on the batch that both networks have just read; None where there is none."""
        if not self._chosen:
            self._choose()
        gaps = [gap for one in self._watched for gap in one.gaps()]
        return self._weight * torch.stack(gaps).mean() if gaps else None

    def end(self) -> None:
        """Stops watching."""
        self._leave(self._watched)
        self._watched = []

    def _choose(self) -> None:
        """Keeps of each resolution the last map that has been read."""
        last = {one.resolution: one for one in self._watched}
        chosen = [one for resolution, one in last.items() if resolution is not None]
        self._leave(one for one in self._watched if one not in chosen)
        self._watched, self._chosen = chosen, True

    @staticmethod
    def _leave(watched: Iterable[_Watched]) -> None:
        for one in watched:
            one.leave()


class _Watched:
    """What one layer has read since it was last asked, in the network under training and in its teacher."""

    def __init__(self, layer: nn.Module, teachers: nn.Module, rows: Tensor | None, axis: int) -> None:
        self._axis = axis
        self._read: list[Tensor] = []
        self._wanted: list[Tensor] = []
        self._handles = (
            layer.register_forward_pre_hook(_reading(self._read)),
            teachers.register_forward_pre_hook(_choosing(self._wanted, rows, axis)),
        )

    @property
    def resolution(self) -> tuple[int, ...] | None:
        """The extents of the map beside images and channels; None where the two networks have not read alike."""
        if not self._read or [item.shape for item in self._read] != [item.shape for item in self._wanted]:
            return None
        shape = list(self._read[-1].shape)
        del shape[self._axis], shape[0]
        return tuple(shape)

    def gaps(self) -> list[Tensor]:
        """Returns the distance of each map that both have read, and forgets them."""
        pairs = zip(self._read, self._wanted, strict=False)
        found = [_gap(mine.float(), wanted.float()) for mine, wanted in pairs if mine.shape == wanted.shape]
        self._read.clear()
        self._wanted.clear()
        return found

    def leave(self) -> None:
        """Reads no more."""
        for handle in self._handles:
            handle.remove()


def _reading(seen: list[Tensor]) -> _PreHook:
    """Returns a hook that remembers what a layer reads if gradients reach it: not while the network is only tested."""

    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], Tensor) and arguments[0].requires_grad:
            seen.append(arguments[0])

    return hook


def _choosing(seen: list[Tensor], rows: Tensor | None, axis: int) -> _PreHook:
    """Returns a hook that remembers the kept channels of what a layer of the teacher reads."""

    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], Tensor):
            seen.append(arguments[0] if rows is None else arguments[0].index_select(axis, rows))

    return hook


def _gap(features: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared distance of two (B, n, *) maps, relative to the target's variance: a scalar."""
    return nn.functional.mse_loss(features, target) / (target.var(correction=0) + _LEAST_VARIANCE)
