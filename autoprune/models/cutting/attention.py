"""Makes attention heads cuttable: modules that write their number down get the classes of `modules.attention`.

Weights load as before, and a saved network is rebuilt by adapting the dense one and giving it the stored tensors.
"""

from __future__ import annotations

from torch import nn

from autoprune.models.cutting.surgery import named_tensors
from autoprune.models.modules.attention import stand_in, take_heads
from autoprune.models.modules.replicas import replicate


def adapt(model: nn.Module, *, share: bool = False) -> nn.Module:
    """Returns a network that computes the same and whose attention heads can be cut; the model itself if it can be.

    Otherwise a copy, of which the model knows nothing. Subclasses are left alone, and so is an `nn.MultiheadAttention`
    with tokens of its own (`add_bias_kv`, `add_zero_attn`): their heads are frozen when the network is traced.

    Args:
        model: the network.
        share: whether the copy takes the model's tensors over, of a model that nobody needs any more.
    """
    found = {id(module): stand_in(module) for module in model.modules()}
    if all(kind is None for kind in found.values()):
        return model
    own = {id(tensor): tensor for tensor in named_tensors(model).values()} if share else {}
    adapted = replicate(model, own, {}, classes=lambda module: found.get(id(module)) or type(module))
    for module in adapted.modules():
        take_heads(module)
    return adapted
