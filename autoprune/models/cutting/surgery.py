"""Cuts a network: given the kept channels of every group, returns the smaller network. Never touches the dense one.

The module tree is replicated with tensors of its own (modules/replicas.py): narrower ones where an axis is cut, copies
of the others. No graph is rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.core.structure import Structure
from autoprune.errors import StructureError
from autoprune.models.modules.layers import ChannelMap
from autoprune.models.modules.replicas import replicate
from autoprune.models.network import IndexArray, Role, TracedNetwork

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Kept:
    """The kept channels of every group.

    Attributes:
        indices: per group the ascending kept channels, at least one unless the group may vanish.
    """

    indices: tuple[IndexArray, ...]

    @property
    def structure(self) -> Structure:
        """How many channels each group keeps."""
        return Structure(tuple(len(index) for index in self.indices))

    def masks(self, network: TracedNetwork) -> tuple[Mask, ...]:
        """Returns per group the (N,) mask of kept channels.

        Raises:
            StructureError: the number of groups differs, or indices are not ascending in [0, N) or empty.
        """
        if len(self.indices) != len(network.groups):
            raise StructureError(
                f"Kept channels are given for {len(self.indices)} groups, the network has {len(network.groups)}."
            )
        masks = []
        for group, index in zip(network.groups, self.indices, strict=True):
            inside = len(index) and index[0] >= 0 and index[-1] < group.width and bool((np.diff(index) > 0).all())
            if not inside and (len(index) or not group.may_vanish):
                raise StructureError(
                    f"Kept channels of group {group.name!r} must be ascending, distinct and in [0, {group.width})."
                )
            mask = np.zeros(group.width, dtype=bool)
            mask[np.asarray(index, dtype=np.int64)] = True
            masks.append(mask)
        return tuple(masks)


def cut(
    model: nn.Module, network: TracedNetwork, kept: Kept, *, inputs: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Returns the cut network; it shares every uncut tensor's values with the dense one, but no storage.

    Args:
        model: the dense network that was traced.
        network: its trace.
        kept: the channels to keep.
        inputs: per weight name, the (n, m) matrix that says how the m kept input channels of a consumer take over
            its n dense ones (`weight_cut = weight @ matrix`); without an entry the kept columns are sliced.

    Raises:
        StructureError: `kept` does not fit the network.
    """
    masks = kept.masks(network)
    positions = [channels.kept(masks) for channels in network.channels]
    index = [
        None if len(channels.group) == len(item) else torch.from_numpy(item)
        for channels, item in zip(network.channels, positions, strict=True)
    ]
    tensors = named_tensors(model)
    replaced: dict[int, Tensor] = {}
    with torch.no_grad():
        for axis in network.axes:
            chosen = index[axis.channels]
            if chosen is None:
                continue
            dense = tensors[axis.names[0]]
            current = replaced.get(id(dense), dense)
            merge = inputs.get(axis.names[0]) if inputs and axis.role is Role.CONSUMES else None
            if merge is not None:
                replaced[id(dense)] = _merged(current, axis.axis, merge)
            else:
                replaced[id(dense)] = current.index_select(axis.axis, chosen.to(dense.device))
        maps = {
            item.name: _renumbered(model.get_submodule(item.name), positions[item.input], positions[item.output])
            for item in network.maps
        }
        return replicate(model, replaced, maps)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns every parameter and buffer by every qualified name it has."""
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = prefix + "." if prefix else ""
        for own in (module._parameters, module._buffers):
            found.update({dot + name: tensor for name, tensor in own.items() if tensor is not None})
    return found


def named_tensor(model: nn.Module, name: str) -> Tensor:
    """Returns the parameter or buffer of a qualified name."""
    place, _, leaf = name.rpartition(".")
    found: Tensor = getattr(model.get_submodule(place), leaf)
    return found


def _merged(weight: Tensor, axis: int, merge: Tensor) -> Tensor:
    """Returns the weight with its input axis multiplied by an (n, m) matrix."""
    product = weight.movedim(axis, -1) @ merge.to(weight)
    return product.movedim(-1, axis).contiguous()


def _renumbered(old: nn.Module, read: IndexArray, written: IndexArray) -> ChannelMap:
    """Returns the map between the kept input and the kept output channels."""
    assert isinstance(old, ChannelMap)
    place = {int(channel): position for position, channel in enumerate(read)}
    new = ChannelMap([place.get(old.source[int(channel)], -1) for channel in written], len(read))
    new.train(old.training)
    return new.to(old.index.device)


def keep_all(network: TracedNetwork) -> Kept:
    """Returns the kept channels of the dense network."""
    return Kept(tuple(np.arange(group.width) for group in network.groups))


def random_kept(network: TracedNetwork, structure: Structure, rng: np.random.Generator) -> Kept:
    """Returns random kept channels of the given widths."""
    return Kept(
        tuple(
            np.sort(rng.choice(group.width, width, replace=False))
            for group, width in zip(network.groups, structure, strict=True)
        )
    )
