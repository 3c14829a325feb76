"""Heads that run only while a network is trained: auxiliary classifiers (GoogLeNet, 2014), deep supervision.

The forward in eval mode knows nothing of them, but they read its channels: a network that is cut without them can no
longer be trained. So their axes are traced in a second forward, with `training` set on whatever looks at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoprune.models.dispatch import Interpreter

#: What draws at random, whether it is written in torch or in a network.
_LAYERS = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


class _NoDropout(TorchFunctionMode):
    """Lets `functional.dropout` and its kin return what they get, as they do in eval mode."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the function unless it is a dropout."""
        kwargs = kwargs or {}
        if "dropout" in getattr(func, "__name__", ""):
            return args[0] if args else kwargs["input"]
        return func(*args, **kwargs)


class _Certain(Interpreter):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """Lets stochastic depth keep everything: networks of other widths would draw other numbers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation; what draws zeros and ones returns ones."""
        out = func(*args, **(kwargs or {}))
        return out.fill_(1) if func._schema.name.startswith("aten::bernoulli") else out


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Lets forwards run in eval mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    """Lets forwards take the ways that they take in training, while layers do what they do in eval mode.

    Buffers, modes and torch's generator are what they were afterwards.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.detach().clone() for buffer in model.buffers()}
    for module in modes:
        written = not type(module).__module__.startswith("torch.nn.")
        module.training = written and not isinstance(module, _LAYERS)
    try:
        certain = _Certain()  # type: ignore[no-untyped-call]  # likewise
        with torch.random.fork_rng(devices=[]), torch.no_grad(), _NoDropout(), certain:
            torch.manual_seed(0)
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, values in buffers.items():
                buffer.copy_(values)
