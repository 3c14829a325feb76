"""Weights as safetensors, with a structure and a loader that do without autoprune."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import nn

from autoprune.config.layout import WEIGHTS
from autoprune.models.modules import attention, hollow
from autoprune.models.modules.layers import ChannelMap
from autoprune.models.storage.exports import loader
from autoprune.models.storage.exports.base import Exportable, Forward, tensors_of


class Safetensors:
    """Weights alone: whoever loads them brings the network's class."""

    runtime = f"safetensors {safetensors.__version__}"

    def write(self, source: Exportable) -> bytes:
        """Returns the content of a `.safetensors` file."""
        from safetensors.torch import save

        # A tied tensor is stored under every name it has: rebuilding needs no knowledge of ties.
        state = {name: tensor.detach().contiguous().clone() for name, tensor in source.model.state_dict().items()}
        content: bytes = save(state, metadata={"autoprune": json.dumps(dict(source.about))})
        return content

    def read(self, content: bytes, source: Exportable) -> Forward:
        """Returns the network that the loader makes of the file; it is the very loader that is written beside."""
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / WEIGHTS
            weights.write_bytes(content)
            Path(f"{weights}.json").write_text(json.dumps({"modules": modules_of(source.model)}), encoding="utf-8")
            model = loader.load_pruned(source.dense(), weights)
        return lambda images: tensors_of(model(images))


def modules_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Returns {module: its type and its sizes}: every public integer, or tuple of integers, that it carries."""
    return {name: _entry(module) for name, module in model.named_modules() if _entry(module).keys() > {"type"}}


def loader_source() -> str:
    """Returns the text of the loader, with what it imports from here put in."""
    lines = inspect.getsource(loader).splitlines()
    for module in (attention, hollow):
        inside = inspect.getsource(module).partition("from __future__ import annotations\n")[2].strip()
        lines = [inside if line.startswith(f"from {module.__name__} import") else line for line in lines]
    return "\n".join(lines) + "\n"


def _entry(module: nn.Module) -> dict[str, Any]:
    kind = {"type": f"{type(module).__module__}.{type(module).__qualname__}"}
    if isinstance(module, ChannelMap):
        return {**kind, "source": list(module.source), "in_channels": module.in_channels}
    return {**kind, **_sizes(vars(module))}


def _sizes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    def is_size(value: Any) -> bool:
        return type(value) is int or (type(value) is tuple and bool(value) and all(type(v) is int for v in value))

    return {key: value for key, value in attributes.items() if not key.startswith("_") and is_size(value)}
