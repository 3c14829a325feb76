"""A traced network: its prunable groups, and for every parameter axis which group and channel each position is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import CostModel
from autoprune.core.structure import PrunableGroup, Structure

IndexArray = npt.NDArray[np.int64]


def layer_name(parameter: str) -> str:
    """Returns the layer that a parameter belongs to: `conv1` for `conv1.weight`, `in_proj` for `in_proj_weight`.

    A parameter of another name is a layer of its own.
    """
    layer, separator, leaf = parameter.rpartition(".")
    if leaf in ("weight", "bias") and layer:
        return layer
    return layer + separator + (leaf.removesuffix("_weight").removesuffix("_bias") or leaf)


def home_of(parameter: str) -> str:
    """Returns the layer whose weight is computed from a parameter: `conv1` for `conv1.weight_v`, as torch names it."""
    layer, parametrized, _ = parameter.partition(".parametrizations.weight.")
    if parametrized:
        return layer
    layer, _, leaf = parameter.rpartition(".")
    return layer if layer and leaf in ("weight_v", "weight_g", "weight_orig") else layer_name(parameter)


class Role(StrEnum):
    """What an axis does with the channels along it."""

    PRODUCES = "produces"
    FOLLOWS = "follows"
    CONSUMES = "consumes"


@dataclass(frozen=True, eq=False)
class AxisChannels:
    """Which channel each of the n positions of an axis carries.

    Attributes:
        group: (n,) group index, -1 for positions that are never cut.
        channel: (n,) channel within its group, 0 where `group` is -1.
    """

    group: IndexArray
    channel: IndexArray

    def kept(self, kept: Sequence[npt.NDArray[np.bool_]]) -> IndexArray:
        """Returns the (m,) ascending positions that remain when group g keeps the channels of mask `kept[g]`."""
        remains = self.group < 0
        for index in self.members:
            mine = self.group == index
            remains[mine] = kept[index][self.channel[mine]]
        return np.flatnonzero(remains)

    def positions(self, group: int) -> IndexArray:
        """Returns the positions of a group's channels, in channel order; those of one channel ascend."""
        found = np.flatnonzero(self.group == group)
        return found[np.argsort(self.channel[found], kind="stable")]

    def places(self, group: int, width: int) -> IndexArray:
        """Returns (width, k) the positions of each channel of a group, of which every channel has k.

        One as a rule; a flattened map has as many as pixels, a head all of its rows of queries, keys and values.
        """
        return self.positions(group).reshape(width, -1)

    @cached_property
    def members(self) -> tuple[int, ...]:
        """The groups that occur, ascending."""
        return tuple(int(index) for index in np.unique(self.group) if index >= 0)


@dataclass(frozen=True, slots=True)
class TracedAxis:
    """One axis of one parameter or buffer, by all of its names, whose positions are channels.

    Attributes:
        names: qualified names; several when modules share the tensor.
        axis: the dimension.
        role: what the axis does with its channels.
        channels: index into `TracedNetwork.channels`.
    """

    names: tuple[str, ...]
    axis: int
    role: Role
    channels: int


class LayerKind(StrEnum):
    """How a layer multiplies its weight with its input."""

    CONV = "conv"
    TRANSPOSED = "transposed"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a convolution or linear layer, and where its output can be compared with the dense one's.

    Attributes:
        weight: qualified name of its weight.
        kind: convolution or linear.
        groups: convolution groups.
        call: position among the network's recorded operations (convolutions, linear layers, norms, additions).
        input: index into `channels` of its input axis; None when no channel of it is labelled.
        output: index into `channels` of its output axis.
        bias: qualified name of its bias, if it has one.
        norm: qualified name of the batch norm's weight that alone reads the output, if any.
        norm_call: position of that batch norm among the recorded operations.
        target: position of the last operation of the chain conv, norm, addition whose links nothing else reads.
        joins: whether `target` is the addition of another stream.
        first_operand: whether the chain enters that addition as its first operand.
        reused: whether the layer, its bias or its batch norm is used more than once, or a link of the chain is read by
            others.
        rectified: whether a ReLU alone reads the end of the chain: values below zero then do not matter.
    """

    weight: str
    kind: LayerKind
    groups: int
    call: int
    input: int | None
    output: int
    bias: str | None
    norm: str | None
    norm_call: int | None
    target: int
    joins: bool
    first_operand: bool
    reused: bool
    rectified: bool

    @property
    def layer(self) -> str:
        """The layer's qualified name."""
        return layer_name(self.weight)


@dataclass(frozen=True, slots=True)
class TracedMap:
    """A `ChannelMap` module: positions of its input and output as indices into `channels`."""

    name: str
    input: int
    output: int


@dataclass(frozen=True, eq=False)
class TracedNetwork:
    """All that surgery, costs and heuristics need to know of a network, without its weights.

    Attributes:
        groups: prunable groups, in forward order of their first producer.
        channels: the distinct channel layouts of axes.
        axes: every parameter and buffer axis that a cut touches.
        maps: `ChannelMap` modules.
        calls: convolution and linear layers in forward order.
        cost_model: exact costs over `groups`.
        frozen: {layer: why its output channels are not prunable}.
        input_shape: (C, H, W) of the traced image.
        repeated_norms: {first parameter or buffer of a batch norm that runs more than once: number of its last call}.
        picks_by_value: whether the forward keeps what has a high score, say, so that outputs and costs vary with
            the image; a layer's cost is then that on the traced one.
        auxiliary: whether the forward runs further layers in training; what they read is cut, their own channels stay.
    """

    groups: tuple[PrunableGroup, ...]
    channels: tuple[AxisChannels, ...]
    axes: tuple[TracedAxis, ...]
    maps: tuple[TracedMap, ...]
    calls: tuple[LayerCall, ...]
    cost_model: CostModel
    frozen: Mapping[str, str]
    input_shape: tuple[int, ...]
    repeated_norms: Mapping[str, int] = field(default_factory=dict)
    picks_by_value: bool = False
    auxiliary: bool = False

    @cached_property
    def dense(self) -> Structure:
        """Every group at its dense width."""
        return Structure(tuple(group.width for group in self.groups))

    @cached_property
    def index(self) -> dict[str, int]:
        """{group name: its position}."""
        return {group.name: position for position, group in enumerate(self.groups)}

    def layers_of(self, group: int, role: Role) -> tuple[str, ...]:
        """Returns the layers that produce, follow or consume the channels of a group, in forward order."""
        found: dict[str, None] = {}
        for axis in self.axes:
            if axis.role is role and group in self.channels[axis.channels].members:
                found.update(dict.fromkeys(layer_name(name) for name in axis.names))
        return tuple(found)
