"""Reports on a network without searching: what can be cut, what a structure costs, how a saved model does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.core.budget import parse_budgets
from autoprune.core.cost import Cost
from autoprune.core.seeds import derive_seed
from autoprune.core.space import SearchSpace
from autoprune.core.structure import structure_from
from autoprune.data.preprocessing import Preprocessing
from autoprune.data.sources import load_data
from autoprune.errors import AutopruneError, ConfigError, DataError, StructureError
from autoprune.models.counting import count
from autoprune.models.network import Role, TracedNetwork
from autoprune.models.saved import load, read_saved
from autoprune.models.tracing import trace
from autoprune.models.verify import verified, verify
from autoprune.models.zoo import build_model, model_info
from autoprune.report.observer import NullObserver
from autoprune.searching.finish import cost_entry
from autoprune.searching.options import SearchOptions
from autoprune.searching.preparation import load_problem, prepare
from autoprune.strategies.heuristics import heuristic_structures
from autoprune.training.default import DEFAULT_MODEL
from autoprune.training.measure import measure

#: Input of networks of which nothing is known.
_IMAGENET_SHAPE = (3, 224, 224)


def trace_report(options: SearchOptions, *, verify: bool) -> dict[str, Any]:
    """Returns groups, layers, frozen layers, what heuristics would keep, and what verification found."""
    network, model = _traced(options.model or DEFAULT_MODEL, options.weights)
    report = {
        "model": options.model or DEFAULT_MODEL,
        "groups": [
            {
                "name": group.name,
                "width": group.width,
                "min_width": group.min_width,
                "coupled": group.coupled,
                "layers": list(network.layers_of(index, Role.PRODUCES)),
            }
            for index, group in enumerate(network.groups)
        ],
        "layers": _layers(network, network.dense.widths),
        "frozen": dict(network.frozen),
        "dense": cost_entry(network.cost_model.dense),
        "heuristics": _heuristics(options),
        "verified": {"mask_equivalence": None, "cost_equality": None},
    }
    if verify:
        results = [_verify(model, network, seed) for seed in range(3)]
        report["verified"] = {
            "mask_equivalence": max(result.deviation for result in results),
            "cost_equality": all(result.computed == result.counted for result in results),
        }
    return report


def _verify(model: torch.nn.Module, network: TracedNetwork, seed: int) -> Any:
    return verify(model, network, seed=seed)


def cost_report(model: str, widths: Path) -> dict[str, Any]:
    """Returns the exact cost of a structure that a JSON file gives: a list, a mapping by group, or a structure.json.

    Raises:
        ConfigError: the file cannot be read.
        StructureError: the widths do not fit the network.
    """
    network, _ = _traced(model, None)
    try:
        content = json.loads(widths.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the widths file {str(widths)!r}: {error}.") from error
    if isinstance(content, dict) and isinstance(content.get("widths"), dict | list):
        content = content["widths"]
    if not isinstance(content, list | dict):
        raise ConfigError(
            f"The widths file {str(widths)!r} holds a {type(content).__name__}. "
            "Write a list of widths, or an object with a width for each group."
        )
    if isinstance(content, list) and len(content) != len(network.groups):
        internal = [group for group in network.groups if not group.coupled]
        if len(content) == len(internal):
            content = {group.name: width for group, width in zip(internal, content, strict=True)}
    structure = structure_from(content, network.groups)
    cost, dense = network.cost_model.cost(structure), network.cost_model.dense
    return {
        "model": model,
        **cost_entry(cost),
        "retained_flops": cost.macs / dense.macs,
        "retained_params": cost.params / dense.params,
        "dense": cost_entry(dense),
        "widths": structure.by_group(network.groups),
        "layers": _layers(network, structure.widths),
    }


def evaluate_saved(directory: Path, *, data: str | None, data_root: Path | None, split: str) -> dict[str, Any]:
    """Returns accuracy and loss of a saved model on a part of its data.

    Args:
        directory: with `structure.json`.
        data: name of the data; None for those it was searched on.
        data_root: their folder.
        split: `test`, `train` (all training images) or `holdout` (those that scored its search).

    Raises:
        RunError, DataError: the model or the data cannot be read.
    """
    saved = read_saved(directory)
    name = data or saved.dense.get("data")
    if not isinstance(name, str):
        raise DataError(f"{str(directory)!r} does not say what data it is for. Name them with --data.")
    preprocessing = None if saved.preprocessing is None else Preprocessing.from_dict(saved.preprocessing)
    bundle = load_data(name, root=data_root, preprocessing=preprocessing)
    model = load(directory)
    images = bundle.test if split == "test" else bundle.train
    indices = _holdout(directory, bundle.train.labels) if split == "holdout" else None
    scores = measure(model, images, indices)
    cost = count(model, (1, *saved.input_shape))
    return {
        "model": saved.model,
        "data": name,
        "accuracy": scores.accuracy,
        "loss": scores.loss,
        "images": scores.images,
        **cost_entry(cost),
    }


def _holdout(directory: Path, labels: Any) -> Any:
    from autoprune.data.splits import split_train

    summary = directory.parent / "summary.json"
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
        images, seed = content["images"], int(content["seed"])
        sizes = {"holdout": int(images["holdout"]), "calibration": int(images["calibration"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The hold-out of {str(directory)!r} is not known: {summary} cannot be read. Use --split test."
        ) from error
    return split_train(np.asarray(labels), **sizes, seed=derive_seed(seed, "split")).holdout


def _traced(spec: str, weights: Path | None) -> tuple[TracedNetwork, torch.nn.Module]:
    info = model_info(spec)
    model = build_model(spec, classes=None, weights=weights)
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, *(info.input_shape or _IMAGENET_SHAPE), generator=generator)
    return verified(model, trace(model, example)), model


def _layers(network: TracedNetwork, widths: Any) -> list[dict[str, Any]]:
    by_layer: dict[str, Cost] = network.cost_model.by_layer(type(network.dense)(tuple(widths)))
    return [{"name": name, "macs": cost.macs, "params": cost.params} for name, cost in by_layer.items()]


def _heuristics(options: SearchOptions) -> dict[str, dict[str, int]]:
    """Returns {heuristic: widths}; nothing where the data they read are not at hand."""
    try:
        problem = load_problem(options, NullObserver())
        prepared = prepare(problem, replace(options, scope=options.scope), NullObserver())
        space = SearchSpace.build(prepared.network.groups, prepared.network.cost_model, parse_budgets(options.goals))
    except (DataError, ConfigError, StructureError):
        return {}
    except AutopruneError:
        if options.data is not None:
            raise
        return {}
    found = heuristic_structures(space, prepared.profile)
    return {name: structure.by_group(space.groups) for name, structure in found.items()}
