"""Networks as users hold them, made ready to be copied, moved and run anywhere."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from autoprune.errors import ModelError, one_line
from autoprune.models.modules.closures import Rebinder, held


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
    """Returns a copy, values that modules keep from a forward pass detached: torch copies no others.

    `torch.nn.utils.weight_norm` keeps the weight that it computes, and networks keep attention maps to look at.
    Functions that hold layers of the network hold those of the copy.
    """
    seen = {id(module) for module in model.modules()}
    kept = (tensor for module in model.modules() for tensor in _tensors(vars(module), seen))
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf}
    twin = copy.deepcopy(model, memo)
    own = [*model.modules(), *model.parameters(), *model.buffers()]
    copies = {id(item): memo[id(item)] for item in own if id(item) in memo}
    places = [(vars(module), key) for module in twin.modules() for key in vars(module) if key not in _TREE]
    rebinder = Rebinder((attributes[key] for attributes, key in places), copies)
    for attributes, key in places:
        attributes[key] = rebinder.rebound(attributes[key])
    return twin


#: What torch copies itself.
_TREE = frozenset({"_parameters", "_buffers", "_modules"})


def _tensors(value: object, seen: set[int]) -> Iterator[Tensor]:
    """Yields the tensors in lists, dictionaries and objects that have not been `seen`."""
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, str | bytes | type | ModuleType | FunctionType) or id(value) in seen:
        return
    seen.add(id(value))
    inner = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    for item in value if isinstance(value, list | tuple | set) else inner.values():
        yield from _tensors(item, seen)


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


def holds_itself(model: nn.Module) -> str | None:
    """Returns the name of an attribute that hides a function with a module of the network in its closure, or None.

    Functions that are attributes themselves, or lie in lists and mappings that are, are copied with the network. In an
    object of another kind they are not: its copy has the same function, which goes on using the layers of this one.
    """
    own = {id(module) for module in model.modules()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            hidden = getattr(value, "__dict__", {}).values() if not isinstance(value, _COPIED) else ()
            functions = [item for item in hidden if isinstance(item, FunctionType | functools.partial)]
            if any(id(item) in own for function in functions for item in held(function)):
                return f"{name}.{key}" if name else key
    return None


#: Whose attributes are no hidden ones.
_COPIED = (nn.Module, Tensor, type, ModuleType, FunctionType, functools.partial)
