"""Heads that run only while a network is trained: auxiliary classifiers (GoogLeNet, 2014), deep supervision.

The forward in eval mode knows nothing of them, but they read its channels: a network that is cut without them can no
longer be trained. So their axes are traced in a second forward, with `training` set on whatever looks at it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from autoprune.models.cutting.surgery import Kept, cut
from autoprune.models.modules.replicas import replicate
from autoprune.models.network import TracedNetwork
from autoprune.models.tracing.assembly import assemble
from autoprune.models.watching.dispatch import Interpreter
from autoprune.models.watching.origins import TensorNames
from autoprune.models.watching.records import AxisRecord
from autoprune.tasks.detectors import raw_outputs

if TYPE_CHECKING:
    from autoprune.models.tracing.tracer import LabelTracer

#: What draws at random, whether it is written in torch or in a network.
_LAYERS = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
#: What is drawn instead: the middle of [0, 1) is above every share that is dropped and below every one that is kept.
_DRAWN = {"rand": 0.5, "rand_like": 0.5}
_DRAWN |= dict.fromkeys(("randn", "randn_like", "normal", "normal_", "bernoulli", "bernoulli_"), 1.0)
_DRAWN |= dict.fromkeys(("exponential_", "geometric_", "log_normal_", "cauchy_", "poisson", "binomial"), 1.0)
#: Instead of these, the lowest number, or the first ones in order.
_WHOLE, _ORDERED = ("randint", "randint_like", "random_"), ("randperm", "multinomial")


class _NoDropout(TorchFunctionMode):
    """Lets `functional.dropout` and its kin return what they get, as they do in eval mode."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the function unless it is a dropout."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":  # its fifth argument
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            return func(*args, **{key: 0.0 if key == "dropout_p" else item for key, item in kwargs.items()})
        if "dropout" in name:
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)


class _Certain(Interpreter):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """Draws the same everywhere, so that stochastic depth keeps everything: other widths would draw other numbers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation; one that draws returns a constant."""
        kwargs = kwargs or {}
        out, name = func(*args, **kwargs), func._schema.name.removeprefix("aten::")
        given = {argument.name: item for argument, item in zip(func._schema.arguments, args, strict=False)} | kwargs
        if name == "uniform_":
            return out.fill_((given.get("from", 0.0) + given.get("to", 1.0)) / 2)
        if name in _WHOLE:
            return out.fill_(given.get("low", given.get("from")) or 0)
        if name in _ORDERED:
            among = args[0].shape[-1] if name == "multinomial" else max(1, args[0])
            return out.copy_(torch.arange(out.shape[-1]) % among)
        return out.fill_(_DRAWN[name]) if name in _DRAWN else out


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Lets forwards run in eval mode; every module has its own mode again afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    """Lets forwards take the ways that they take in training, while layers do what they do in eval mode.

    Parameters, buffers, attributes, modes and the generators of torch, Python and NumPy are what they were afterwards.
    What a forward changes within an attribute, such as a list, is not: give a replica.
    """
    tensors = [*model.parameters(), *model.buffers()]
    gpus = sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})
    with _put_back(model), torch.random.fork_rng(devices=gpus):
        for module in model.modules():
            written = not type(module).__module__.startswith("torch.nn.")
            module.training = written and not isinstance(module, _LAYERS)
        # Not `torch.manual_seed`, which seeds the generators of all GPUs, too.
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  # the generator of the forward, not ours
        certain = _Certain()  # type: ignore[no-untyped-call]  # likewise
        with torch.no_grad(), _NoDropout(), certain:
            yield


@contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    """Lets a network be changed, and the generators of Python and NumPy; all are what they were afterwards."""
    drawn, also_drawn = random.getstate(), np.random.get_state()  # noqa: NPY002
    attributes = {module: dict(vars(module)) for module in model.modules()}
    modes = {module: module.training for module in attributes}
    own = {module: (dict(module._parameters), dict(module._buffers)) for module in attributes}
    values = {tensor: tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())}
    try:
        yield
    finally:
        random.setstate(drawn)
        np.random.set_state(also_drawn)  # noqa: NPY002
        for module, before in attributes.items():
            vars(module).clear()
            vars(module).update(before)
            module.training = modes[module]
            # A forward may have put other tensors in their place.
            parameters, buffers = own[module]
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, value in values.items():
                tensor.copy_(value)


def trains(model: nn.Module, network: TracedNetwork, images: Tensor) -> bool:
    """Returns whether the forward in training runs once half of every group is cut, with outputs as large as before.

    Args:
        model: the dense network; not changed.
        network: its trace.
        images: (B, C, H, W) a few, on its device.
    """
    halves = Kept(tuple(np.arange(max(1, group.width // 2)) for group in network.groups))
    try:
        dense, small = (_shapes(item, images) for item in (replicate(model, {}, {}), cut(model, network, halves)))
    except Exception:  # whatever a forward says to other widths than are written in it
        return False
    return dense == small


def _shapes(model: nn.Module, images: Tensor) -> list[torch.Size]:
    with as_in_training(model):
        return [leaf.shape for leaf in tree_leaves(raw_outputs(model, images)) if isinstance(leaf, Tensor)]


def joined(
    model: nn.Module, images: Tensor, network: TracedNetwork, tracer: LabelTracer, other: LabelTracer
) -> TracedNetwork:
    """Returns the network with the axes of layers that only run in training; calls and costs are those in eval mode.

    What only training does must not cost channels in vain, such as an operation that no rule follows. Where fewer can
    be cut than the forward in eval mode allows, the first of these is taken that still trains once it is cut: eval
    mode's alone, and then what training ties but not what it freezes. Only where neither does, the fewer channels.
    """
    before, known = tracer.atoms, {item.name for item in tracer.maps}
    tracer.axes = axes_of(other, tracer.known)
    tracer.maps.extend(item for item in other.maps if item.name not in known)
    tracer.atoms = other.atoms
    whole = replace(assemble(tracer, model, network.input_shape), auxiliary=True)
    if _channels(whole) >= _channels(network):
        return whole
    if trains(model, network, images):
        return network
    tracer.atoms = other.atoms.forgiven(before)
    tied = assemble(tracer, model, network.input_shape)
    return tied if _channels(tied) > _channels(whole) and trains(model, tied, images) else whole


def _channels(network: TracedNetwork) -> int:
    return sum(group.width for group in network.groups)


def axes_of(tracer: LabelTracer, known: TensorNames) -> dict[tuple[int, int], AxisRecord]:
    """Returns the axes of a trace as those of a replica's tensors, which are found by name."""
    moved = [replace(item, tensor=known.by_name[tracer.name(item.tensor)]) for item in tracer.axes.values()]
    return {(id(item.tensor), item.axis): item for item in moved}
