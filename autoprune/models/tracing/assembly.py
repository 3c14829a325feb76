"""Turns the labels of a trace into prunable groups, channel layouts and exact costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from autoprune.core.cost import AxisWidth, CostModel, LayerTerm
from autoprune.core.structure import PrunableGroup
from autoprune.models.network import (
    AxisChannels,
    LayerCall,
    Role,
    TracedAxis,
    TracedMap,
    TracedNetwork,
    layer_name,
)
from autoprune.models.tracing.labels import FIXED
from autoprune.models.watching.origins import COMPUTED

if TYPE_CHECKING:
    from autoprune.models.tracing.tracer import LabelTracer
    from autoprune.models.watching.records import AxisRecord


class _Layouts:
    """Distinct `AxisChannels`, by content."""

    def __init__(self, place: dict[int, tuple[int, int]]) -> None:
        self._place = place
        self._known: dict[tuple[int, ...], int] = {}
        self.all: list[AxisChannels] = []

    def add(self, roots: list[int]) -> int:
        key = tuple(roots)
        if key not in self._known:
            places = [self._place.get(root, (-1, 0)) for root in roots]
            group, channel = np.array(places, dtype=np.int64).reshape(-1, 2).T
            self._known[key] = len(self.all)
            self.all.append(AxisChannels(group, channel))
        return self._known[key]


def assemble(tracer: LabelTracer, model: nn.Module, input_shape: tuple[int, ...]) -> TracedNetwork:
    """Returns the network that a finished trace describes."""
    records = sorted(tracer.axes.values(), key=lambda record: record.role is not Role.PRODUCES)
    roots = {id(record): tracer.atoms.roots(record.labels) for record in records}
    groups, place = _groups(tracer, records, roots)
    layouts = _Layouts(place)
    axes = tuple(
        TracedAxis(tracer.known.names[id(record.tensor)], record.axis, record.role, layouts.add(roots[id(record)]))
        for record in records
    )
    maps = tuple(
        TracedMap(item.name, layouts.add(tracer.atoms.roots(item.input)), layouts.add(tracer.atoms.roots(item.output)))
        for item in tracer.maps
    )
    calls = _calls(tracer, layouts)
    cost_model = _cost_model(tracer, model, groups, axes, layouts.all)
    cost_model = cost_model.with_form("peak", tracer.memory.form(tracer.atoms, groups, place))
    return TracedNetwork(
        groups,
        tuple(layouts.all),
        axes,
        maps,
        calls,
        cost_model,
        _frozen_layers(tracer, records, roots, place),
        input_shape,
        {tracer.known.names[norm][0]: calls[-1] for norm, calls in tracer.norm_calls.items() if len(calls) > 1},
        tracer.picks_by_value,
    )


def _groups(
    tracer: LabelTracer, records: list[AxisRecord], roots: dict[int, list[int]]
) -> tuple[tuple[PrunableGroup, ...], dict[int, tuple[int, int]]]:
    """Returns the groups, and {class: (group, channel)}.

    Classes that occur on the same axes, equally often, form one group: they are interchangeable in every cost.
    """
    signature: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, record in enumerate(records):
        found, counts = np.unique(np.array(roots[id(record)], dtype=np.int64), return_counts=True)
        for root, count in zip(found.tolist(), counts.tolist(), strict=True):
            if root != FIXED:
                signature[root].append((index, count))
    frozen, coupled = tracer.atoms.frozen_reasons(), tracer.atoms.coupled_roots()
    members: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        for root in dict.fromkeys(roots[id(record)]):
            # A class enters at the first axis it occurs on, which fixes the order of groups and channels.
            if root != FIXED and root not in frozen and signature[root][0][0] == index:
                members[tuple(signature[root])].append(root)
    groups: list[PrunableGroup] = []
    place: dict[int, tuple[int, int]] = {}
    taken: dict[str, int] = {}
    for occurrences, classes in members.items():
        first = records[occurrences[0][0]]
        if first.role is not Role.PRODUCES or len(classes) < 2:
            continue
        name = layer_name(tracer.name(first.tensor))
        taken[name] = taken.get(name, 0) + 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        place.update({root: (len(groups), channel) for channel, root in enumerate(classes)})
        groups.append(PrunableGroup(name, len(classes), coupled=any(root in coupled for root in classes)))
    return tuple(groups), place


def _calls(tracer: LabelTracer, layouts: _Layouts) -> tuple[LayerCall, ...]:
    # A bias of several layers is none's own: what one of them is solved for would be added by the others as well.
    times = Counter(id(item) for record in tracer.calls for item in (record.weight, record.bias) if item is not None)
    return tuple(
        LayerCall(
            weight=tracer.name(record.weight),
            kind=record.kind,
            groups=record.groups,
            call=record.call,
            input=None if record.input is None else layouts.add(tracer.atoms.roots(record.input)),
            output=layouts.add(tracer.atoms.roots(record.output)),
            bias=None if record.bias is None else tracer.name(record.bias),
            norm=None if record.norm is None else tracer.name(record.norm),
            norm_call=record.norm_call,
            target=record.target,
            joins=record.joins,
            first_operand=record.first_operand,
            reused=max(times[id(record.weight)], times[id(record.bias)]) > 1
            or record.forked
            or len(tracer.norm_calls[id(record.norm)]) > 1,
            rectified=record.rectified and record.readers == 1,
        )
        for record in tracer.calls
    )


def _cost_model(
    tracer: LabelTracer,
    model: nn.Module,
    groups: tuple[PrunableGroup, ...],
    axes: tuple[TracedAxis, ...],
    layouts: list[AxisChannels],
) -> CostModel:
    uses: dict[int, int] = defaultdict(int, tracer.derived_uses)
    for call in tracer.calls:
        uses[id(call.weight)] += call.uses
    labelled: dict[str, list[TracedAxis]] = defaultdict(list)
    for axis in axes:
        labelled[axis.names[0]].append(axis)
    terms = []
    # Weights are what a state dict holds: parameters, and the buffers that are saved or that a cut makes so.
    # By name: a forward may have put another tensor in the place of a buffer that it knows.
    names = tracer.known.by_name
    saved = dict.fromkeys(names[name] for name in model.state_dict(keep_vars=True) if name in names)
    others = [tensor for tensor in tracer.known.tensors.values() if tensor not in saved]
    for tensor in (*saved, *others):
        name = tracer.name(tensor)
        mine = labelled.get(name, [])
        widths = [axis_width(layouts[axis.channels]) for axis in sorted(mine, key=lambda axis: axis.axis)]
        size = int(np.prod([extent for dim, extent in enumerate(tensor.shape) if dim not in {a.axis for a in mine}]))
        # At most two axes of a weight are channels; a third would be no product of two widths.
        widths = [*widths, AxisWidth(1), AxisWidth(1)]
        trained = isinstance(tensor, nn.Parameter)
        times = uses.get(id(tensor), 0)
        bytes_each = tensor.element_size() if tensor in saved or any(width.groups for width in widths) else 0
        if tensor in saved or times or bytes_each:
            terms.append(LayerTerm(name, size, times, widths[0], widths[1], bytes_each, trained))
    if tracer.computed_macs:
        terms.append(LayerTerm(COMPUTED, 1, tracer.computed_macs, AxisWidth(1), element_bytes=0, trained=False))
    return CostModel(tuple(group.width for group in groups), tuple(terms))


def axis_width(channels: AxisChannels) -> AxisWidth:
    """Returns the width of an axis as a combination of group widths."""
    multiplicities = []
    for index in channels.members:
        mine = channels.channel[channels.group == index]
        multiplicities.append((index, len(mine) // len(np.unique(mine))))
    return AxisWidth(int((channels.group < 0).sum()), tuple(multiplicities))


def _frozen_layers(
    tracer: LabelTracer, records: list[AxisRecord], roots: dict[int, list[int]], place: dict[int, tuple[int, int]]
) -> dict[str, str]:
    """Returns {layer: reason} of layers some of whose output channels are in no group."""
    reasons = tracer.atoms.frozen_reasons()
    frozen = dict(tracer.computed_layers)
    for record in records:
        if record.role is not Role.PRODUCES:
            continue
        outside = [root for root in roots[id(record)] if root not in place]
        if not outside:
            continue
        # Halves that are shuffled and halved again tie every channel to every other one, as in ShuffleNet V2.
        whole = len(outside) > 1 and len(set(outside)) == 1
        alone = "can only be cut all at once" if whole else "no second channel is used in the same places"
        reason = next((reasons[root] for root in outside if root in reasons), alone)
        some = (
            "" if len(outside) == len(roots[id(record)]) else f" ({len(outside)} of {len(roots[id(record)])} channels)"
        )
        frozen[layer_name(tracer.name(record.tensor))] = reason + some
    return frozen
