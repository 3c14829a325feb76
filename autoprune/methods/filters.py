"""A group's filters: what the weights of all of its producers say of each channel, side by side.

Notation:
    N   channels of a group
    k   occurrences of a channel in one tensor: one as a rule, several in grouped convolutions and heads
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import nn

from autoprune.core.cost import FloatArray
from autoprune.models.cutting.surgery import named_tensors
from autoprune.models.network import Role, TracedNetwork
from autoprune.models.reduction.calibration import to_numpy


def producers(network: TracedNetwork, group: int) -> list[tuple[str, int, int]]:
    """Returns the (name, axis, index into `channels`) of every weight that produces a group's channels."""
    return [
        (axis.names[0], axis.axis, axis.channels)
        for axis in network.axes
        if axis.role is Role.PRODUCES and group in network.channels[axis.channels].members
    ]


def producer_filters(model: nn.Module, network: TracedNetwork, groups: Iterable[int]) -> list[FloatArray]:
    """Returns per group the (N, d) flattened filters of all its producers, side by side."""
    tensors = named_tensors(model)
    found = []
    for group in groups:
        parts = []
        for name, axis, layout in producers(network, group):
            rows = to_numpy(tensors[name].movedim(axis, 0).flatten(1))
            parts.append(channel_rows(network, layout, group, rows))
        found.append(np.concatenate(parts, axis=1) if parts else np.zeros((network.groups[group].width, 1)))
    return found


def channel_rows(network: TracedNetwork, layout: int, group: int, rows: FloatArray) -> FloatArray:
    """Returns (N, k * d) what the (n, d) rows of a tensor say of each channel of a group.

    A channel that occurs less often than others has zeros for the rest.
    """
    channels = network.channels[layout]
    positions = channels.positions(group)
    owners = channels.channel[positions]
    occurrence = np.arange(len(owners)) - np.searchsorted(owners, owners)
    found = np.zeros((network.groups[group].width, int(occurrence.max(initial=0)) + 1, rows.shape[1]))
    found[owners, occurrence] = rows[positions]
    return found.reshape(len(found), -1)
