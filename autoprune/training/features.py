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
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from autoprune.models.cutting.surgery import Kept
from autoprune.models.modules.hollow import HollowConv2d
from autoprune.models.network import IndexArray, LayerKind, TracedNetwork
from autoprune.training.hooks import Hook, TrainingState

_Hear = Callable[[Tensor], None]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: Forwards whose argument is what the layer's operation reads, up to padding.
_PLAIN = frozenset(layer.forward for layer in (*_LAYERS, HollowConv2d))
_OPERATIONS = frozenset(
    (
        *(functional.linear, functional.conv1d, functional.conv2d, functional.conv3d),
        *(functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
    )
)

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
        width: N, of the axis in the dense network.
    """

    layer: str
    axis: int
    kept: IndexArray | None
    width: int


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
        width = len(layout.group)
        found[call.layer] = LayerInput(call.layer, axis, None if len(rows) == width else rows, width)
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
                chosen = _Chosen(rows, item.axis, item.width)
                self._watched.append(_Watched(modules[item.layer], teachers[item.layer], chosen))

    def penalty(self) -> Tensor | None:
        """Returns the weighted distance on the batch that both networks have just read; None where there is none."""
        if not self._chosen:
            self._choose()
        gaps = [gap for one in self._watched for gap in one.gaps()]
        return self._weight * torch.stack(gaps).mean() if gaps else None

    def gradients_ready(self) -> None:
        """Forgets what was read meanwhile: gradient checkpointing runs layers again in the backward pass."""
        for one in self._watched:
            one.forget()

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


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Which channels of what a layer of the dense network reads are compared, see `LayerInput`."""

    rows: Tensor | None
    axis: int
    width: int

    def of(self, x: Tensor) -> Tensor | None:
        """Returns them; None where the axis is not the one that was traced."""
        if x.dim() < 2 or x.shape[self.axis] != self.width:
            return None
        return x if self.rows is None else x.index_select(self.axis, self.rows)


class _Watched:
    """What one layer has read since it was last asked, in the network under training and in its teacher."""

    def __init__(self, layer: nn.Module, teachers: nn.Module, chosen: _Chosen) -> None:
        self._axis = chosen.axis
        self._read: list[Tensor] = []
        self._wanted: list[Tensor] = []

        def read(x: Tensor) -> None:
            if x.requires_grad:  # not while the network is only tested
                self._read.append(x)

        def want(x: Tensor) -> None:
            found = chosen.of(x)
            if found is not None:
                self._wanted.append(found)

        self._handles = (*_listen(layer, read), *_listen(teachers, want))

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
        self.forget()
        return found

    def forget(self) -> None:
        """Forgets what has been read."""
        self._read.clear()
        self._wanted.clear()

    def leave(self) -> None:
        """Reads no more."""
        for handle in self._handles:
            handle.remove()


def _listen(layer: nn.Module, hear: _Hear) -> tuple[RemovableHandle, ...]:
    """Lets `hear` have whatever the operation of a layer reads; returns the hooks.

    That is the layer's argument, unless the layer has a forward of its own: one that appends coordinates, say, before
    it convolves. Within that forward the operation itself is listened to.
    """
    if type(layer).forward in _PLAIN or any(layer.children()):

        def argument(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = next(iter((*arguments, *named.values())), None)
            if isinstance(x, Tensor):
                hear(x)

        return (layer.register_forward_pre_hook(argument, with_kwargs=True),)
    open_ears: list[_Ear] = []

    def enter(_: nn.Module, _arguments: tuple[Any, ...]) -> None:
        open_ears.append(_Ear(layer, hear))
        open_ears[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(*_: object) -> None:
        if open_ears:
            open_ears.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    # Called even where the forward raises: an ear that stays open would hear all that torch does.
    return layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave, always_call=True)


class _Ear(TorchFunctionMode):
    """While entered, hears what convolutions and linear layers with the weight of a module read."""

    def __init__(self, layer: nn.Module, hear: _Hear) -> None:
        super().__init__()
        self._shape = getattr(getattr(layer, "weight", None), "shape", None)
        self._hear = hear

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls the function, and tells what it reads if it is a layer's."""
        if func in _OPERATIONS:
            given = dict(zip(("input", "weight"), args, strict=False), **(kwargs or {}))
            # By shape: the weight may be standardised or scaled first.
            if getattr(given.get("weight"), "shape", None) == self._shape:
                self._hear(given["input"])
        return func(*args, **(kwargs or {}))


def _gap(features: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared distance of two (B, n, *) maps, relative to the target's variance: a scalar."""
    return nn.functional.mse_loss(features, target) / (target.var(correction=0) + _LEAST_VARIANCE)
