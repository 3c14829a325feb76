"""Feature maps of prunable groups, after batch norm and ReLU, handed out one at a time so that they need not be stored.

The maps of published criteria are the outputs of ReLUs. A group's map is hence taken at the end of a producer's chain
(layer, batch norm, addition of the other stream) and rectified where a ReLU alone reads that end. Where another
activation, a concatenation or nothing follows, the input of a consumer is the map.

Notation:
    B   images of one forward pass
    N   channels of a group
    P   positions of the map, height times width
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.models.cutting.surgery import named_tensors
from autoprune.models.network import AxisChannels, LayerCall, TracedNetwork
from autoprune.models.watching.operations import ChainTap, Handler, LayerOperands, Operation, OperationTap
from autoprune.tasks.detectors import raw_outputs

#: Called with the group, the place (0 for the first of the group) and the (B, N, P) map, which is not to be kept.
Visit = Callable[[int, int, Tensor], None]


@torch.no_grad()
def visit_maps(
    model: nn.Module,
    network: TracedNetwork,
    images: Tensor,
    visit: Visit,
    *,
    every_place: bool = False,
    batch: int = 64,
) -> None:
    """Calls `visit` with the maps of every group, batch after batch; a group without any place is never visited.

    Args:
        model: the dense network, in eval mode.
        network: its trace.
        images: (n, C, H, W) on the model's device.
        visit: called once per batch, group and place.
        every_place: whether a group is visited at each of its places (a residual stream: after the stem and after every
            block) instead of its first one.
        batch: images per forward pass, at most.
    """
    taps = _taps(model, network, visit, every_place=every_place)
    handlers: dict[int, Handler] = {}
    for tap in taps:
        handlers.update(tap.handlers())
    # Of equal size: a network may run other operations on the single image that would otherwise be left at the end.
    for block in images.tensor_split(math.ceil(len(images) / batch)):
        for tap in taps:
            tap.batch = len(block)
        with OperationTap(handlers):
            raw_outputs(model, block)


def _taps(model: nn.Module, network: TracedNetwork, visit: Visit, *, every_place: bool) -> list[_Tap]:
    """Returns what watches the places, in forward order."""
    tensors = named_tensors(model)
    ends: dict[int, list[tuple[int, int]]] = {}
    inputs: dict[int, list[tuple[int, int]]] = {}
    for group in range(len(network.groups)):
        chains = [
            index
            for index, call in enumerate(network.calls)
            if group in network.channels[call.output].members and call.rectified and not call.reused
        ]
        readers = [
            index
            for index, call in enumerate(network.calls)
            if call.input is not None and group in network.channels[call.input].members
        ]
        chosen, places = (ends, chains) if chains else (inputs, readers)
        for place, index in enumerate(places if every_place else places[:1]):
            chosen.setdefault(index, []).append((group, place))
    taps = []
    for index, call in enumerate(network.calls):
        if index in ends or index in inputs:
            read = call.output if call.input is None else call.input
            taps.append(
                _Tap(
                    call,
                    tensors[call.weight],
                    reads=_Sender(network.channels[read], inputs.get(index, ()), visit),
                    ends=_Sender(network.channels[call.output], ends.get(index, ()), visit),
                )
            )
    return taps


class _Sender:
    """Sends the channels of some groups of one tensor to the visitor."""

    def __init__(self, layout: AxisChannels, places: Sequence[tuple[int, int]], visit: Visit) -> None:
        self._visit = visit
        self._width = len(layout.group)
        self._places = []
        for group, place in places:
            positions = layout.positions(group)
            channels = len(np.unique(layout.channel[positions]))
            self._places.append((group, place, channels, torch.from_numpy(positions)))

    def __bool__(self) -> bool:
        return bool(self._places)

    def send(self, value: Tensor, images: int) -> None:
        """Sends a (B, n, *) map or (B * rows, n) output of a linear layer, if it is one of that width and batch."""
        if value.dim() < 2 or value.shape[1] != self._width or len(value) % images:
            return
        if value.dim() == 2:
            value = value.reshape(images, -1, value.shape[1]).transpose(1, 2)
        if len(value) != images:
            return
        for group, place, channels, positions in self._places:
            # Flattened maps hold a channel at several positions in a row.
            picked = value.index_select(1, positions.to(value.device))
            self._visit(group, place, picked.reshape(images, channels, -1))


class _Tap(ChainTap):
    """Sends what a layer reads, and what is at the end of its chain, rectified."""

    def __init__(self, call: LayerCall, weight: Tensor, *, reads: _Sender, ends: _Sender) -> None:
        super().__init__(call, weight)
        self.batch = 0
        self._reads = reads
        self._ends = ends

    def handlers(self) -> dict[int, Handler]:
        """Returns what to run in place of the operations of the chain, the layer alone where its end is of no use."""
        found = super().handlers()
        return found if self._ends else {self.call.call: found[self.call.call]}

    def begin(self, operands: LayerOperands) -> bool:
        """Sends the input; any is as expected."""
        self._reads.send(operands.input, self.batch)
        return True

    def end(self, value: Tensor) -> Tensor:
        """Sends the rectified value and passes the value itself on."""
        if self._ends:
            self._ends.send(value.clamp_min(0), self.batch)
        return value

    def join(self, addition: Operation) -> Tensor:
        """Adds the other stream and sends the sum."""
        return self.end(addition.again())
