"""Traces a network: one forward pass of one image, every operation interpreted on channel labels.

The forward runs for real, operation by operation, below Python: control flow on shapes or values, hooks, closures and
reused modules need no special care. What an operation does to channels is one rule per kind of operation (rules.py);
an operation without a rule freezes the channels it reads, with its name as the reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.errors import ModelError
from autoprune.models.modules.layers import ChannelMap
from autoprune.models.modules.replicas import replicate
from autoprune.models.network import Role, TracedNetwork
from autoprune.models.tracing.assembly import assemble
from autoprune.models.tracing.auxiliary import as_in_training, axes_of, in_eval, joined
from autoprune.models.tracing.indexing import picks_by_value
from autoprune.models.tracing.labels import FIXED, Atoms, along, distinct, spread
from autoprune.models.tracing.memory import ActivationLog
from autoprune.models.tracing.rules import apply_rule
from autoprune.models.tracing.views import ParameterViews
from autoprune.models.watching.dispatch import Interpreter
from autoprune.models.watching.origins import ByTensor, Origins, TensorNames
from autoprune.models.watching.records import AxisRecord, Call, CallRecord, MapRecord
from autoprune.tasks.detectors import raw_outputs

#: One to find heads from queries and keys, one from values that meet them, one that knows all, and one to spare.
_TRACES = 4


@dataclass(frozen=True, eq=False)
class Split:
    """A view that splits channels into several dimensions.

    Attributes:
        step: number of the operation.
        atoms: the channels.
        sizes: extents of all dimensions but the last.
    """

    step: int
    atoms: Tensor
    sizes: frozenset[int]


class LabelTracer(Interpreter):
    """Carries labels through every operation and records axes, layer calls and chains.

    Args:
        known: parameters and buffers of the model.
        heads: {number of an operation that splits channels: how many attention heads it may split them into}, as
            earlier traces have put it down in `wanted`.
    """

    def __init__(self, known: TensorNames, heads: Mapping[int, frozenset[int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.known = known
        self.memory = ActivationLog(known.tensors.values())
        self.atoms = Atoms()
        self.axes: dict[tuple[int, int], AxisRecord] = {}
        self.calls: list[CallRecord] = []
        self.maps: list[MapRecord] = []
        self.operations = 0
        self.norm_calls: defaultdict[int, list[int]] = defaultdict(list)
        self._labels = ByTensor()
        self._chains = ByTensor()
        self.origins = Origins(known)
        self.derived_uses: Counter[int] = Counter()
        self.computed_macs = 0
        self.computed_layers: dict[str, str] = {}
        self.picks_by_value = False
        self._opaque = 0
        self.views = ParameterViews(known.__contains__)
        self._heads = heads
        self._step = 0
        self._splits: list[Split] = []
        self.wanted: dict[int, frozenset[int]] = {}
        self._lost = ByTensor()
        self.read_parameters: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation, then lets its rule say what happened to the channels."""
        kwargs = kwargs or {}
        self.memory.begins()
        out = func(*args, **kwargs)
        call = Call(func, args, kwargs, out)
        self.memory.holds(call.results)
        self._step += 1
        if self._opaque == 0:
            self.picks_by_value |= picks_by_value(call)
            apply_rule(self, call)
            self._remember_sizes(call.results)
        return out

    def _remember_sizes(self, results: list[Tensor]) -> None:
        """Lets results without labels, such as the indices of a pooling, be as wide as one of the same shape."""
        for result in results:
            alike = (self.labels(other) for other in results if other.shape == result.shape)
            labels = next((labels for labels in alike if labels is not None), None)
            if labels is not None:
                self.memory.labelled(result, labels)

    def labels(self, tensor: object) -> Tensor | None:
        """Returns the label tensor of an activation, None if it carries no channel."""
        found: Tensor | None = self._labels.get(tensor) if isinstance(tensor, Tensor) else None
        return found

    def label(self, tensor: Tensor, labels: Tensor | None) -> None:
        """Gives an activation its labels; None when it carries no channel."""
        if labels is None:
            self._labels.pop(tensor, None)
        else:
            self._labels[tensor] = labels

    def split(self, labels: Tensor, dims: list[int]) -> int:
        """Returns which of the dimensions that channels have just been split into is cut: the last, or the heads."""
        wanted = self._heads.get(self._step, ())
        # Queries, keys and values in one view: of 3 and as many heads the heads are behind.
        fitting = [dim for dim in reversed(dims[:-1]) if labels.size(dim) in wanted]
        self._splits.append(Split(self._step, distinct(labels), frozenset(labels.size(dim) for dim in dims[:-1])))
        return fitting[0] if fitting else dims[-1]

    def want_heads(self, labels: Tensor, heads: int) -> bool:
        """Asks for another trace that cuts heads where these channels were split into heads and head dimensions.

        Returns whether they were.

        Args:
            labels: of a tensor whose channels a product sums over.
            heads: a multiple of the number of heads.
        """
        atoms = set(self.atoms.roots(distinct(labels)))
        found = [split for split in self._splits if atoms & set(self.atoms.roots(split.atoms)) - {FIXED}]
        for split in found:
            if split.step not in self._heads:
                fitting = frozenset(size for size in split.sizes if heads % size == 0)
                self.wanted[split.step] = frozenset({heads}) if heads in fitting else fitting
        return bool(found)

    def lose(self, out: Tensor, labels: Tensor, reason: str) -> None:
        """Remembers a result in which channels are mixed up: it freezes them as soon as anything reads it."""
        self._lost[out] = (labels, reason)

    def read(self, tensor: object) -> None:
        """Freezes the channels that are mixed up in a tensor that is read."""
        found = self._lost.get(tensor) if isinstance(tensor, Tensor) else None
        if found is not None:
            self.atoms.freeze(*found)

    def see(self, call: Call) -> None:
        """Notes where results come from, and what is read."""
        self.origins.see(call)
        for leaf in call.operands:
            self.read(leaf)
            if leaf in self.known:
                self.read_parameters.add(id(leaf))

    def sees_image(self, tensor: Tensor) -> bool:
        """Returns whether a tensor depends on the image."""
        return self.origins.sees_image(tensor)

    def parameter(self, tensor: object) -> Tensor | None:
        """Returns the tensor if it is a parameter or buffer of the model, or the one it is a cast or transpose of."""
        return self.origins.parameter(tensor)

    def count_derived(self, weight: Tensor, uses: int) -> None:
        """Counts the multiply-accumulates of a computed weight, with the parameter of its size that it comes from."""
        source = self.origins.source(weight)
        if source is None:
            self.computed_macs += uses * weight.numel()
        else:
            self.derived_uses[id(source)] += uses

    def put_out(self, output: Any, reason: str = "network output") -> None:
        """Freezes the channels that a forward returns."""
        for leaf in tree_leaves(output):
            labels = self.labels(leaf)
            self.read(leaf)
            self.read_chain(leaf, None)
            if labels is not None:
                self.atoms.freeze(labels, reason)

    def axis(self, tensor: Tensor, axis: int, labels: Tensor, role: Role) -> Tensor:
        """Records the labels along a parameter axis, tying them to those of an earlier use; returns them."""
        record = self.axes.get((id(tensor), axis))
        if record is None:
            self.axes[id(tensor), axis] = AxisRecord(tensor, axis, role, labels.clone())
            return labels
        self.atoms.tie(record.labels, labels, f"{self.name(tensor)} is used with fixed and with prunable channels")
        return record.labels

    def follow(self, tensor: Tensor, dim: int, labels: Tensor) -> bool:
        """Lets the parameters that a tensor comes from follow the (n,) labels along one of its dimensions.

        Returns whether there are any, and every position along the dimension comes from one of each. Channels that one
        position is repeated over are tied.
        """
        found = self.views.axes(tensor, dim)
        for item in found:
            places = labels[item.order]
            self.atoms.tie(places[:, :1], places, f"{self.name(item.parameter)} is repeated over fixed channels")
            self.axis(item.parameter, item.axis, places[:, 0], Role.FOLLOWS)
        if not found:
            return False
        self.memory.labelled(tensor, spread(labels, tensor.shape, dim))
        return True

    def produced(self, weight: Tensor, axis: int) -> Tensor:
        """Returns the atoms of a layer's output channels: fresh ones at its first call."""
        record = self.axes.get((id(weight), axis))
        return (
            record.labels
            if record is not None
            else self.axis(weight, axis, self.atoms.fresh(weight.shape[axis]), Role.PRODUCES)
        )

    def name(self, tensor: Tensor) -> str:
        """Returns the first qualified name of a parameter."""
        return self.known.name(tensor)

    def operation(self) -> int:
        """Returns the number of the next recorded operation."""
        self.operations += 1
        return self.operations - 1

    def start_chain(self, out: Tensor, record: CallRecord) -> None:
        """Begins the chain conv, norm, addition at a layer's output."""
        self.calls.append(record)
        self._chains[out] = (record, 0)

    def chain(self, tensor: object) -> CallRecord | None:
        """Returns the chain whose last link a tensor is."""
        found = self._chains.get(tensor) if isinstance(tensor, Tensor) else None
        return found[0] if found is not None and found[1] == found[0].links else None

    def extend_chain(self, record: CallRecord, out: Tensor) -> None:
        """Makes `out` the last link of a chain."""
        record.links += 1
        self._chains[out] = (record, record.links)

    def read_chain(self, tensor: object, by: CallRecord | None) -> None:
        """Ends every chain that an operation reads without extending it; one read in its middle is forked."""
        found = self._chains.get(tensor) if isinstance(tensor, Tensor) else None
        if found is None or found[0] is by:
            return
        record, link = found
        record.settled = True
        record.forked |= link < record.links
        record.readers += link == record.links

    def rectify(self, tensor: Tensor, *, in_place: bool) -> None:
        """Notes that a ReLU reads the end of a chain; one in place leaves nothing of it for others to read."""
        record = self.chain(tensor)
        if record is not None:
            record.rectified = True
            record.settled = True
            record.readers += 1
            if in_place:
                self._chains.pop(tensor, None)

    def hooks(self, model: nn.Module) -> list[Any]:
        """Registers the handling of `ChannelMap` modules; returns the handles to remove."""
        handles = []
        for name, module in model.named_modules():
            if isinstance(module, ChannelMap):
                handles.append(module.register_forward_pre_hook(self._enter_map))
                handles.append(module.register_forward_hook(self._leave_map(name)))
        return handles

    def _enter_map(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._opaque += 1
        self.read_chain(args[0], None)

    def _leave_map(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def leave(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            self._opaque -= 1
            assert isinstance(module, ChannelMap)
            labels = self.labels(args[0])
            read = along(labels, 1) if labels is not None else None
            if read is None:
                if labels is not None:
                    self.atoms.freeze(labels, f"{name} reads channels that are mixed with positions")
                return
            # A zero channel is an atom of its own: it can be cut like any other once a stream ties it to one.
            fresh = self.atoms.fresh(len(module.source))
            source = torch.tensor(module.source)
            written = torch.where(source >= 0, read[source.clamp(min=0)], fresh)
            self.maps.append(MapRecord(name, read, written))
            self.label(out, spread(written, out.shape, 1))
            self._remember_sizes([out])

        return leave


def trace(model: nn.Module, example: Tensor) -> TracedNetwork:
    """Returns the traced network.

    Args:
        model: any module whose forward takes one image batch; left as it was.
        example: (1, C, H, W) an image on the model's device.

    Raises:
        ModelError: the forward fails on the example.
    """
    known = TensorNames.of(model)
    tracer, output = _with_heads(
        lambda heads: LabelTracer(known, heads), lambda found: _run(model, example, found, in_eval(model))
    )
    tracer.put_out(output)
    network = assemble(tracer, model, tuple(example.shape[1:]))
    unread = {known.name(parameter) for parameter in model.parameters() if id(parameter) not in tracer.read_parameters}
    if not unread:
        return network
    # Two images: a norm written by hand may want more than one value a channel.
    images = example.expand(2, *example.shape[1:]).contiguous()
    other = _trace_training(model, images, tracer, unread)
    return network if other is None else joined(model, images, network, tracer, other)


def _with_heads(
    tracer_of: Callable[[Mapping[int, frozenset[int]]], LabelTracer], run: Callable[[LabelTracer], Any]
) -> tuple[LabelTracer, Any]:
    """Returns the tracer that knows how channels are split into heads, and the output of the forward it followed."""
    heads: dict[int, frozenset[int]] = {}
    for _ in range(_TRACES):
        tracer = tracer_of(heads)
        output = run(tracer)
        if not tracer.wanted:
            break
        heads.update(tracer.wanted)
    return tracer, output


def _trace_training(
    model: nn.Module, images: Tensor, tracer: LabelTracer, unread: Collection[str]
) -> LabelTracer | None:
    """Returns a trace of the forward in training that goes on from that in eval mode; None if no other layer runs.

    It has operations, and so heads, of its own, and follows a replica: such a forward may change the network. The
    channels of layers that only run in training are frozen: cuts of these would change no cost that is asked for.
    """

    def begin(heads: Mapping[int, frozenset[int]]) -> LabelTracer:
        replicas.append(replicate(model, {}, {}))
        other = LabelTracer(TensorNames.of(replicas[-1]), heads)
        other.atoms, other.axes = tracer.atoms.copy(), axes_of(tracer, other.known)
        return other

    def run(other: LabelTracer) -> Any:
        return _run(replicas[-1], images, other, as_in_training(replicas[-1]))

    replicas: list[nn.Module] = []
    try:
        other, output = _with_heads(begin, run)
    except ModelError:  # it wants targets, say: what trains such a network is no training of ours
        return None
    if not any(id(other.known.by_name[name]) in other.read_parameters for name in unread):
        return None
    other.put_out(output, "output in training")
    other.atoms.freeze_since(len(tracer.atoms), "runs only in training")
    return other


def _run(model: nn.Module, example: Tensor, tracer: LabelTracer, mode: AbstractContextManager[None]) -> Any:
    """Returns the output of a forward that the tracer follows."""
    handles = tracer.hooks(model)
    tracer.origins.show(example)
    try:
        tracer.memory.holds([example])
        with mode, torch.no_grad(), tracer:
            return raw_outputs(model, example)
    except ModelError:
        raise
    except Exception as error:
        shape = "x".join(map(str, example.shape))
        raise ModelError(
            f"The network's forward fails on a random {shape} input: {type(error).__name__}: {error}. "
            "Check the input shape and the model's arguments."
        ) from error
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["FIXED", "CallRecord", "LabelTracer", "TensorNames", "trace"]
