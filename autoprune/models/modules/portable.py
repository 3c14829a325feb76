"""Networks as users hold them, made ready to be copied, moved and run anywhere."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from autoprune.errors import ModelError, one_line
from autoprune.models.modules.closures import held
from autoprune.models.modules.replicas import replicate


def initialised(model: nn.Module, shape: Sequence[int]) -> nn.Module:
    """Returns the network, its lazy layers made by a forward pass on a (C, H, W) image.

    In place: torch cannot copy what has not been made yet.

    Raises:
        ModelError: it does not take such images.
    """
    lazy = (module for module in model.modules() if isinstance(module, LazyModuleMixin))
    if not any(module.has_uninitialized_params() for module in lazy):
        return model
    modes = {module: module.training for module in model.modules()}
    try:
        # Its weights are drawn from torch's generator, which is the caller's.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()(torch.zeros(1, *shape))
    except Exception as error:  # the forward may be the user's code
        raise ModelError(
            f"The lazy layers of {type(model).__name__} cannot be made: its forward fails on "
            f"{'x'.join(map(str, shape))} images ({one_line(error)}). Give a network that has run once."
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    return model


def copied(model: nn.Module) -> nn.Module:
    """Returns a copy, also where torch makes none, for a network keeps values of a forward pass.

    `torch.nn.utils.weight_norm` keeps the weight that it computes, and networks keep attention maps to look at.
    Functions that hold layers of the network hold those of the copy.

    Raises:
        Exception: whatever an attribute says that cannot be copied, such as a lock.
    """
    return replicate(model, {}, {}, strict=True)


def on_any_device(model: nn.Module) -> nn.Module:
    """Returns the network, every `nn.DataParallel` in it changed in place to compute wherever its weights are."""
    for module in model.modules():
        if isinstance(module, nn.DataParallel):
            module.device_ids = []
    return model


class OneArgument(nn.Module):
    """A network whose forward takes what it likes, called with images alone: exporters ask for the arguments' names."""

    def __init__(self, model: nn.Module) -> None:
        """Wraps the network."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """Returns what the network says of images."""
        return self.model(images)


def with_one_argument(model: nn.Module) -> nn.Module:
    """Returns the network, wrapped where its forward does not name its first argument: `*args`."""
    first = next(iter(inspect.signature(model.forward).parameters.values()), None)
    named = first is not None and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
    return model if named else OneArgument(model)


def shared_by(model: nn.Module, twin: nn.Module) -> str | None:
    """Returns the name of an attribute by which a copy of a network still holds a layer of it, or None.

    Objects of classes that copy themselves may, and what cannot be copied at all.
    """
    own = {id(module) for module in model.modules()}
    for name, module in twin.named_modules():
        for key, value in vars(module).items():
            if any(id(item) in own for item in held(value)):
                return f"{name}.{key}" if name else key
    return None
