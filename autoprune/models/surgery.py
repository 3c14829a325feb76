"""Cuts a network: given the kept channels of every group, returns the smaller network. Never touches the dense one.

The dense module tree is replicated shallowly (module objects are new, everything else is shared) and only the tensors
with a cut axis are new. No graph is rebuilt and no weight that stays is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.core.structure import Structure
from autoprune.errors import StructureError
from autoprune.models.layers import ChannelMap
from autoprune.models.network import IndexArray, TracedNetwork

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Kept:
    """The kept channels of every group.

    Attributes:
        indices: per group the ascending kept channels, at least one.
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
            fine = len(index) and index[0] >= 0 and index[-1] < group.width and bool((np.diff(index) > 0).all())
            if not fine:
                raise StructureError(
                    f"Kept channels of group {group.name!r} must be ascending, distinct and in [0, {group.width})."
                )
            mask = np.zeros(group.width, dtype=bool)
            mask[index] = True
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
    whole = [len(channels.group) == len(index) for channels, index in zip(network.channels, positions, strict=True)]
    index = [torch.from_numpy(item) for item in positions]
    names = {name: tensor for name, tensor in model.named_parameters(remove_duplicate=False)}
    names.update(model.named_buffers(remove_duplicate=False))
    replaced: dict[int, Tensor] = {}
    with torch.no_grad():
        for axis in network.axes:
            if whole[axis.channels]:
                continue
            dense = names[axis.names[0]]
            current = replaced.get(id(dense), dense)
            merge = (inputs or {}).get(axis.names[0]) if axis.role == "consumes" else None
            if merge is not None:
                replaced[id(dense)] = _merged(current, axis.axis, merge)
            else:
                replaced[id(dense)] = current.index_select(axis.axis, index[axis.channels].to(dense.device))
        modules = dict(model.named_modules())
        maps = {
            item.name: _renumbered(modules[item.name], positions[item.input], positions[item.output])
            for item in network.maps
        }
        return replicate(model, replaced, maps)


def _merged(weight: Tensor, axis: int, merge: Tensor) -> Tensor:
    """Returns the weight with its input axis multiplied by an (n, m) matrix."""
    product = weight.movedim(axis, -1) @ merge.to(weight)
    return product.movedim(-1, axis).contiguous()


def replicate(model: nn.Module, replaced: Mapping[int, Tensor], maps: Mapping[str, ChannelMap]) -> nn.Module:
    """Returns a replica of the module tree with new tensors; layers take their widths from these.

    Args:
        model: the network; it shares nothing that training changes with the replica.
        replaced: {id of a parameter or buffer: the tensor in its place}; all others are cloned.
        maps: {name: the module in place of a `ChannelMap`}.
    """
    made: dict[int, nn.Module] = {}
    tensors: dict[int, Tensor] = {}

    def tensor(old: Tensor) -> Tensor:
        if id(old) not in tensors:
            new = replaced.get(id(old))
            new = old.detach().clone() if new is None else new.detach()
            is_parameter = isinstance(old, nn.Parameter)
            tensors[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new
        return tensors[id(old)]

    def module(old: nn.Module, name: str) -> nn.Module:
        if id(old) in made:
            return made[id(old)]
        if isinstance(old, ChannelMap) and name in maps:
            made[id(old)] = maps[name]
            return made[id(old)]
        new = object.__new__(type(old))
        new.__dict__.update(old.__dict__)
        made[id(old)] = new
        for key, value in old.__dict__.items():
            if key.startswith("_") and key.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
                new.__dict__[key] = copy.copy(value)
        new.__dict__["_parameters"] = {key: None if p is None else tensor(p) for key, p in old._parameters.items()}
        new.__dict__["_buffers"] = {key: None if b is None else tensor(b) for key, b in old._buffers.items()}
        new.__dict__["_non_persistent_buffers_set"] = set(old._non_persistent_buffers_set)
        new.__dict__["_modules"] = {
            key: None if child is None else module(child, f"{name}.{key}" if name else key)
            for key, child in old._modules.items()
        }
        _resize(new)
        return new

    return module(model, "")


def _renumbered(old: nn.Module, read: IndexArray, written: IndexArray) -> ChannelMap:
    """Returns the map between the kept input and the kept output channels."""
    assert isinstance(old, ChannelMap)
    place = {int(channel): position for position, channel in enumerate(read)}
    new = ChannelMap([place.get(old.source[int(channel)], -1) for channel in written], len(read))
    new.train(old.training)
    return new.to(old.index.device)


def _resize(module: nn.Module) -> None:
    """Makes the width attributes of a layer agree with its tensors."""
    weight = module._parameters.get("weight")
    if isinstance(module, nn.modules.conv._ConvNd) and weight is not None:
        if module.groups > 1 and module.groups == module.in_channels and not module.transposed:
            multiplier = module.out_channels // module.groups
            module.groups = weight.shape[0] // multiplier
            module.in_channels, module.out_channels = module.groups, weight.shape[0]
        elif module.transposed:
            module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
        else:
            module.in_channels, module.out_channels = weight.shape[1] * module.groups, weight.shape[0]
    elif isinstance(module, nn.Linear) and weight is not None:
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        running = module._buffers.get("running_mean")
        first = weight if weight is not None else running
        if first is not None:
            module.num_features = first.shape[0]
    elif isinstance(module, nn.PReLU) and weight is not None:
        module.num_parameters = weight.shape[0]


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
