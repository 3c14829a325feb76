"""Loads a pruned network without autoprune: torch and safetensors are all that this file needs.

It is written beside an exported `model.safetensors`, with the layers of removed branches and of attention put in. You
bring the class of the network:

    model = load_pruned(make_dense_network(), "model.safetensors")
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from autoprune.models.modules.attention import stand_in, take_heads
from autoprune.models.modules.hollow import hollow_out


def load_pruned(model: nn.Module, weights: str | Path) -> nn.Module:
    """Returns the dense network, changed in place into the pruned one, in eval mode.

    Args:
        model: the dense network as its class makes it; its weights do not matter.
        weights: the `.safetensors` file; its structure lies beside it, with `.json` after the name.
    """
    structure = json.loads(Path(f"{weights}.json").read_text(encoding="utf-8"))
    for name, entry in structure["modules"].items():
        if "source" in entry:  # a map of channels: made anew from where each channel comes from
            parent, _, leaf = name.rpartition(".")
            fresh = type(model.get_submodule(name))(entry["source"], entry["in_channels"])
            setattr(model.get_submodule(parent), leaf, fresh)
            continue
        module = model.get_submodule(name)
        kind = stand_in(module)
        if kind is not None and kind.__name__ == entry["type"].rpartition(".")[2]:  # its own class fixes its heads
            module.__class__ = kind
            take_heads(module)
        for key, value in entry.items():
            if key != "type":  # widths, groups and the like
                setattr(module, key, tuple(value) if isinstance(value, list) else value)
    made: dict[nn.Parameter | None, nn.Parameter] = {}
    for name, tensor in load_file(weights).items():
        parent, _, leaf = name.rpartition(".")
        module = model.get_submodule(parent)
        if leaf in module._buffers:
            module._buffers[leaf] = tensor
            continue
        old = module._parameters[leaf]
        if old not in made:  # layers that share a weight go on sharing it
            made[old] = nn.Parameter(tensor, requires_grad=old is not None and old.requires_grad)
            made[made[old]] = made[old]  # a layer that has two names is met twice
        module._parameters[leaf] = made[old]
    for module in model.modules():
        hollow_out(module)
    with torch.no_grad():
        return model.eval()
