"""Networks inside what `torch.compile` made of them: it would compile every trace and every cut, for minutes."""

from __future__ import annotations

from torch import nn

from autoprune.models.modules.portable import copied

#: What `torch.compile` calls the module inside; it stands in the names of its tensors, too.
WRAPPED = "_orig_mod"


def uncompiled(model: nn.Module) -> nn.Module:
    """Returns the network as it was before it or parts of it were compiled; the model itself where nothing was.

    Otherwise a copy, of which the model knows nothing.
    """
    if not any(_is_compiled(module) for module in model.modules()):
        return model
    # A copied module has forgotten its `compile()`, so that only the wrapped ones are left to be unwrapped.
    inner = copied(inside(model))
    for module in list(inner.modules()):
        for name, part in module.named_children():
            setattr(module, name, inside(part))
    return inner


def inside(model: nn.Module) -> nn.Module:
    """Returns what `torch.compile` was given, the model itself where it comes from elsewhere."""
    while isinstance(wrapped := getattr(model, WRAPPED, None), nn.Module):
        model = wrapped
    return model


def _is_compiled(module: nn.Module) -> bool:
    return WRAPPED in module._modules or getattr(module, "_compiled_call_impl", None) is not None
