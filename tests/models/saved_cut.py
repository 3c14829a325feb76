"""A random cut of a network, saved in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.core.structure import Structure
from autoprune.models.cutting.surgery import Kept, cut, random_kept
from autoprune.models.network import TracedNetwork
from autoprune.models.storage.saved import (
    SavedModel,
    describe_maps,
    kept_by_name,
    kept_from_names,
    read_saved,
    save_model,
)
from autoprune.models.tracing.tracer import trace
from autoprune.models.zoo.catalogue import build_model
from tests.models.toy_networks import settled, toy


def saved_cut(
    directory: Path,
    spec: str | None,
    *,
    name: str = "plain",
    model: torch.nn.Module | None = None,
    network: TracedNetwork | None = None,
    kept: Kept | None = None,
    **changes: Any,
) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """Saves a network that keeps half of every group, or what it is told to; returns it and the shape of its images.

    Args:
        directory: where to.
        spec: name of the network; None for a network object.
        name: the toy network that is this object.
        model: another object, or what the name stands for.
        network: its trace; None to trace it.
        kept: the channels to keep; None for random ones.
        changes: fields of the description that differ.
    """
    torch.manual_seed(1)
    shape = (3, 32, 32) if spec is not None and model is None else (3, 12, 12)
    model = model or (toy(name) if spec is None else settled(build_model(spec)))
    network = network or trace(model, torch.zeros(1, *shape))
    half = Structure(tuple(max(1, group.width // 2) for group in network.groups))
    kept = kept or random_kept(network, half, np.random.default_rng(0))
    structure = kept.structure
    small = cut(model, network, kept)
    cost = network.cost_model.cost(structure)
    saved = SavedModel(
        model=spec,
        classes=None,
        class_names=("a", "b"),
        input_shape=shape,
        preprocessing=None,
        widths=structure.by_group(network.groups),
        kept=kept_by_name(network, kept),
        dense_widths=network.dense.by_group(network.groups),
        maps=describe_maps(small),
        dense={"weights": None},
        cost={"macs": cost.macs, "flops": cost.flops, "params": cost.params},
        info={"note": "änd so on"},
    )
    saved = replace(saved, **changes)
    save_model(directory, small, saved)
    assert replace(read_saved(directory), weights_sha256=None) == saved
    back = kept_from_names(network, saved.kept)
    assert all(np.array_equal(a, b) for a, b in zip(back.indices, kept.indices, strict=True))
    return small, shape
