"""Cuts a network: given the kept channels of every group, returns the smaller network. Never touches the dense one.

The dense module tree is replicated shallowly (module objects are new, everything else is shared) and only the tensors
with a cut axis are new. No graph is rebuilt and no weight that stays is copied.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.core.structure import Structure
from autoprune.errors import StructureError
from autoprune.models.modules.closures import Rebinder
from autoprune.models.modules.hollow import hollow_out
from autoprune.models.modules.layers import ChannelMap
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


def replicate(
    model: nn.Module,
    replaced: Mapping[int, Tensor],
    maps: Mapping[str, ChannelMap],
    *,
    classes: Callable[[nn.Module], type[nn.Module]] = type,
) -> nn.Module:
    """Returns a replica of the module tree with new tensors; layers take their widths from these.

    Args:
        model: the network; it shares nothing that training changes with the replica.
        replaced: {id of a parameter or buffer: the tensor in its place}; all others are cloned.
        maps: {name: the module in place of a `ChannelMap`}.
        classes: returns the class of a module's replica, which gets all of its attributes.
    """
    return _Replicator(replaced, maps, classes).replica(model)


class _Replicator:
    """Copies a module tree as `copy.deepcopy` would, but for tensors that are given, and a hundred times faster."""

    def __init__(
        self,
        replaced: Mapping[int, Tensor],
        maps: Mapping[str, ChannelMap],
        classes: Callable[[nn.Module], type[nn.Module]],
    ) -> None:
        self._replaced = replaced
        self._maps = maps
        self._classes = classes
        #: {id of an old object: its copy}, in the form that `copy.deepcopy` reads and extends.
        self._memo: dict[int, Any] = {}
        self._pending: list[tuple[dict[str, Any], str, Any]] = []

    def replica(self, model: nn.Module) -> nn.Module:
        """Returns the copy of the whole tree."""
        new = self._module(model, "")
        # Only now are all modules known to which a plain attribute, a hook or a bound method may point.
        rebinder = Rebinder((value for _, _, value in self._pending), self._memo, other=self._deep)
        for attributes, key, value in self._pending:
            again = rebinder.rebound(value)
            attributes[key] = self._deep(value) if again is value else again
        return new

    def _module(self, old: nn.Module, name: str) -> nn.Module:
        known: nn.Module | None = self._memo.get(id(old))
        if known is not None:
            return known
        if name in self._maps:
            self._memo[id(old)] = self._maps[name]
            return self._maps[name]
        new: nn.Module = object.__new__(self._classes(old))
        self._memo[id(old)] = new
        attributes = new.__dict__
        attributes.update(old.__dict__)
        for key, value in old.__dict__.items():
            if type(value) in _ATOMIC or key in _OWN:
                continue
            if type(value) is OrderedDict and not value:
                attributes[key] = OrderedDict()  # hooks, as a rule none
            elif type(value) not in (tuple, list) or not all(type(item) in _ATOMIC for item in value):
                self._pending.append((attributes, key, value))
            elif type(value) is list:
                attributes[key] = list(value)
        attributes["_parameters"] = {key: self._parameter(item) for key, item in old._parameters.items()}
        attributes["_buffers"] = {key: self._tensor(item) for key, item in old._buffers.items()}
        # No constructor makes a cut buffer, so that it is saved whether the dense one is or not.
        kept_out = {key for key in old._non_persistent_buffers_set if not self._is_cut(old._buffers.get(key))}
        attributes["_non_persistent_buffers_set"] = kept_out
        dot = name + "." if name else ""
        attributes["_modules"] = {
            key: None if child is None else self._module(child, dot + key) for key, child in old._modules.items()
        }
        _resize(new)
        _resize_heads(old, new)
        return new

    def _parameter(self, old: nn.Parameter | None) -> nn.Parameter | None:
        if old is None:
            return None
        if id(old) not in self._memo:
            values = self._values(old)
            self._memo[id(old)] = nn.Parameter(values, requires_grad=old.requires_grad)
        made: nn.Parameter = self._memo[id(old)]
        return made

    def _tensor(self, old: Tensor | None) -> Tensor | None:
        if old is None:
            return None
        if id(old) not in self._memo:
            self._memo[id(old)] = self._values(old)
        made: Tensor = self._memo[id(old)]
        return made

    def _is_cut(self, old: Tensor | None) -> bool:
        return old is not None and self._replaced.get(id(old), old).shape != old.shape

    def _values(self, old: Tensor) -> Tensor:
        new = self._replaced.get(id(old))
        return old.detach().clone() if new is None else new.detach()

    def _deep(self, value: Any) -> Any:
        try:
            return copy.deepcopy(value, self._memo)
        except Exception:
            # Locks, open files, tensors inside a graph: what cannot be copied is no part of the weights; sharing it is
            # what a shallow copy does, and a forward that depends on it is caught by the check of the trace.
            return value


#: Immutable values, shared between copies.
_ATOMIC = frozenset({int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size, type})
#: Attributes of every module that are rebuilt entry by entry.
_OWN = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})


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
    # Plain integers: written past the checks of nn.Module, which would take a fifth of the time of a cut.
    attributes = module.__dict__
    if isinstance(module, nn.modules.conv._ConvNd) and weight is not None:
        if module.groups > 1 and module.groups == module.in_channels:
            each = module.out_channels // module.groups
            groups = weight.shape[0] if module.transposed else weight.shape[0] // each
            attributes.update(groups=groups, in_channels=groups, out_channels=groups * each)
        elif module.transposed:
            attributes.update(in_channels=weight.shape[0], out_channels=weight.shape[1] * module.groups)
        else:
            attributes.update(in_channels=weight.shape[1] * module.groups, out_channels=weight.shape[0])
    elif isinstance(module, nn.Linear) and weight is not None:
        attributes.update(out_features=weight.shape[0], in_features=weight.shape[1])
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        first = weight if weight is not None else module._buffers.get("running_mean")
        if first is not None:
            attributes["num_features"] = first.shape[0]
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        together = module.num_channels // module.num_groups
        attributes.update(num_channels=weight.shape[0], num_groups=weight.shape[0] // together)
    elif isinstance(module, nn.PReLU) and weight is not None:
        attributes["num_parameters"] = weight.shape[0]
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        read = module._parameters.get("weight_ih_l0", module._parameters.get("weight_ih"))
        if read is not None:
            attributes["input_size"] = read.shape[1]
    hollow_out(module)


#: What the projections to queries are called that tell how many heads are left, and what counts heads or their width.
_PROJECTIONS = ("qkv", "to_qkv", "q", "q_proj", "to_q", "query", "wq")
_HEAD_COUNTS = ("num_heads", "n_heads", "n_head", "heads", "num_attention_heads")
_HEAD_WIDTHS = ("attn_dim", "inner_dim", "all_head_size", "all_head_dim")


def _resize_heads(old: nn.Module, new: nn.Module) -> None:
    """Makes the head counts that an attention module keeps as numbers agree with its cut projection."""
    count = next((name for name in _HEAD_COUNTS if type(old.__dict__.get(name)) is int), None)
    if count is None:
        return
    for name in _PROJECTIONS:
        before, after = old._modules.get(name), new._modules.get(name)
        if not isinstance(before, nn.Linear) or not isinstance(after, nn.Linear):
            continue
        heads, rest = divmod(new.__dict__[count] * after.out_features, before.out_features)
        if rest == 0:
            for width in _HEAD_WIDTHS:
                if type(old.__dict__.get(width)) is int:
                    new.__dict__[width] = old.__dict__[width] * heads // old.__dict__[count]
            new.__dict__[count] = heads
        return


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
