"""Where the multiply-accumulates of a run's networks are, layer by layer: counted on the traced dense network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoprune.config.layout import saved_folder
from autoprune.core.structure import structure_from
from autoprune.errors import RunError
from autoprune.models.storage.saved import load, read_saved
from autoprune.models.tracing.tracer import trace
from autoprune.models.zoo.catalogue import build_model, model_info
from autoprune.plugins import is_plugin
from autoprune.report.records.run import RunRecord


def layer_costs(run: Path, record: RunRecord, uniform: Mapping[str, int] | None) -> list[dict[str, Any]]:
    """Returns `{"name", "dense", "uniform", "pruned"}` MACs of every layer that has any, in forward order.

    Args:
        run: the run folder.
        record: what it says.
        uniform: {group: width} of the uniform network, None for none.

    Raises:
        AutopruneError: the network cannot be built from its name, or is another than the one that was pruned.
    """
    dense, shape = _dense(run, record)
    generator = torch.Generator().manual_seed(0)
    network = trace(dense, torch.randn(1, *shape, generator=generator))
    recorded = record.dense
    if recorded is not None and network.cost_model.dense.macs != recorded.macs:
        raise RunError("the network of that name has another cost than the dense network of the run.")

    def macs(widths: Mapping[str, int]) -> dict[str, int]:
        by_layer = network.cost_model.by_layer(structure_from(dict(widths), network.groups, least=0))
        return {name: cost.macs for name, cost in by_layer.items()}

    whole, kept, even = macs({}), macs(record.widths), None if uniform is None else macs(uniform)
    return [
        {"name": name, "dense": value, "uniform": even and even[name], "pruned": kept[name]}
        for name, value in whole.items()
        if value
    ]


def _dense(run: Path, record: RunRecord) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """Returns the dense network without its weights, and the shape of its input."""
    if record.structure:
        folder = saved_folder(run)
        saved = read_saved(folder)
        if saved.model is None:
            raise RunError("it was cut from a network object.")
        # Loading refuses names that would run what came with the folder; only then is the name built again.
        load(folder)
        return build_model(saved.model, classes=saved.classes, weights=None), saved.input_shape
    name = record.summary.get("model")
    if not isinstance(name, str) or is_plugin(name):
        raise RunError("the network is not saved yet.")
    shape = model_info(name).input_shape
    if shape is None:
        raise RunError("the network is not saved yet, and the shape of its input is not known.")
    return build_model(name, classes=None, weights=None), shape
