"""Reports on a network without searching: what can be cut, what a structure costs, how a saved model does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.config.layout import SUMMARY
from autoprune.config.written_space import space_text
from autoprune.core.cost import Cost
from autoprune.core.seeds import derive_seed
from autoprune.core.structure import PrunableGroup, Structure, structure_from
from autoprune.data.bundle import DataBundle
from autoprune.data.images import IntArray
from autoprune.data.sources import load_data
from autoprune.devices import usable_device
from autoprune.errors import BudgetError, ConfigError, DataError, StructureError
from autoprune.models.costing.conventions import CONVENTIONS, require_convention, tally
from autoprune.models.costing.counting import count
from autoprune.models.cutting.surgery import Kept, cut
from autoprune.models.network import LayerKind, Role, TracedNetwork
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.depth import allowed_to_vanish
from autoprune.models.verification.equivalence import verified
from autoprune.models.verification.equivalence import verify as prove
from autoprune.models.zoo.catalogue import build_model, model_info
from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.dense import dense_network
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import Problem, is_unlabelled, load_problem, named_by, saved_problem
from autoprune.searching.inputs.run_folder import RunFolder
from autoprune.searching.search.finish import cost_entry, figures
from autoprune.searching.search.preparation import in_scope, prepare, traced
from autoprune.strategies.heuristics import heuristic_structures
from autoprune.training.default import DEFAULT_MODEL
from autoprune.training.measure import measure

#: Input of networks of which nothing is known.
_IMAGENET_SHAPE = (3, 224, 224)


def trace_report(options: SearchOptions, *, verify: bool) -> dict[str, Any]:
    """Returns groups, layers, frozen layers, what heuristics would keep, and what verification found.

    Groups of both scopes are listed, those of the scope `coupled` marked.

    Raises:
        ModelError, DataError, ConfigError: the network or the data that were named cannot be used.
        BudgetError: the budget cannot be reached.
    """
    problem, why_not = _problem(options)
    whole: TracedNetwork | None = None
    if problem is not None:
        quiet, model = NullObserver(), problem.model
        whole = traced(problem, options, quiet)
        network = in_scope(whole, problem, replace(options, scope="coupled"), quiet)
    else:
        network, model = _traced(options.model or DEFAULT_MODEL, options.weights)
    report: dict[str, Any] = {
        "model": options.model or DEFAULT_MODEL,
        "scope": options.scope,
        "input_shape": list(network.input_shape),
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
        "heuristics": {},
        "verified": {"mask_equivalence": None, "cost_equality": None},
        "notes": [],
    }
    try:
        if problem is None:
            raise DataError(why_not)
        report["heuristics"] = _heuristics(problem, whole, options)
    except (DataError, StructureError, BudgetError) as error:
        if isinstance(error, BudgetError) and options.goals != SearchOptions().goals:
            raise  # somebody asked for it
        report["notes"].append(f"What heuristics would keep is not known: {error}")
    if verify:
        results = [prove(model, network, seed=seed) for seed in range(3)]
        report["verified"] = {
            "mask_equivalence": max(result.deviation for result in results),
            "cost_equality": all(result.computed == result.counted for result in results),
        }
    return report


def search_space_of(report: Mapping[str, Any], *, multiple_of: int) -> str:
    """Returns a search-space file for the network of a `trace_report`.

    Raises:
        StructureError: nothing of it can be cut.
    """
    if not report["groups"]:
        raise StructureError(f"Nothing of {report['model']} can be cut, so there is no search space to write.")
    return space_text(
        report["model"],
        [PrunableGroup(group["name"], group["width"], coupled=group["coupled"]) for group in report["groups"]],
        members=[group["layers"] for group in report["groups"]],
        frozen=report["frozen"],
        scope=report["scope"],
        multiple_of=multiple_of,
    )


def _problem(options: SearchOptions) -> tuple[Problem | None, str]:
    """Returns network and images; or None and the reason where no data were named and the usual ones are missing."""
    try:
        return load_problem(options, NullObserver()), ""
    except (DataError, ConfigError) as error:
        if options.data is not None:
            raise
        return None, str(error)


def cost_report(
    model: str,
    widths: Path,
    *,
    data: str | None = None,
    data_root: Path | None = None,
    convention: str | None = None,
) -> dict[str, Any]:
    """Returns the exact cost of a structure that a JSON file gives: a list, a mapping by group, or a structure.json.

    Args:
        model: name of the network.
        widths: the file. A structure.json also says for which input and how many classes the network was built.
        data: name of the data whose images the cost is for; None for the usual input of the network.
        data_root: their folder.
        convention: also counts the cut and the dense network as published tables do: a name of
            `autoprune.models.costing.conventions`, or `all`.

    Raises:
        ConfigError: the file cannot be read, or the convention is unknown.
        StructureError: the widths do not fit the network.
    """
    if convention is not None:
        require_convention(convention)
    content = _read_json(widths)
    shape, classes = None, None
    if isinstance(content, dict) and isinstance(content.get("widths"), dict | list):
        shape, classes = _built_for(content)
        content = content["widths"]
    if not isinstance(content, list | dict):
        raise ConfigError(
            f"The widths file {str(widths)!r} holds a {type(content).__name__}. "
            "Write a list of widths, or an object with a width for each group."
        )
    if data is not None:
        info = model_info(model)
        shape = load_data(data, root=data_root, preprocessing=info.preprocessing, size=info.input_size).input_shape
    network, built = _traced(model, None, shape=shape, classes=classes)
    if isinstance(content, list) and len(content) != len(network.groups):
        fitting = [part for part in _parts(network) if len(part) == len(content)]
        content = dict(zip(fitting[0], content, strict=True)) if fitting else content
    structure = structure_from(content, network.groups, least=0)
    _require_streams(structure, network)
    cost, dense = network.cost_model.cost(structure), network.cost_model.dense
    report = {
        "model": model,
        "input_shape": list(network.input_shape),
        **cost_entry(cost),
        "retained_flops": cost.macs / dense.macs,
        "retained_params": cost.params / dense.params,
        "dense": cost_entry(dense),
        "widths": structure.by_group(network.groups),
        "layers": _layers(network, structure.widths),
    }
    return report if convention is None else {**report, **_conventions(built, network, structure, convention)}


def _require_streams(structure: Structure, network: TracedNetwork) -> None:
    """Refuses a residual stream without channels: whatever passes through it would be gone, and not one branch."""
    for group, width in zip(network.groups, structure, strict=True):
        if group.coupled and not width:
            raise StructureError(f"Width 0 of group {group.name!r} is not an integer in [1, {group.width}].")


def _parts(network: TracedNetwork) -> tuple[list[str], list[str]]:
    """Returns the groups that a shorter list of widths may mean: those within blocks, or those of convolutions."""
    convolved = {
        group
        for call in network.calls
        if call.kind is LayerKind.CONV
        for group in network.channels[call.output].members
    }
    return (
        [group.name for group in network.groups if not group.coupled],
        [group.name for index, group in enumerate(network.groups) if index in convolved],
    )


def _conventions(
    model: torch.nn.Module, network: TracedNetwork, structure: Structure, convention: str
) -> dict[str, dict[str, int]]:
    """Returns the counts of the cut and of the dense network; which channels stay does not matter for them."""
    shape = (1, *network.input_shape)
    kept = Kept(tuple(np.arange(width) for width in structure))
    gone = [name for name, width in structure.by_group(network.groups).items() if not width]
    network = allowed_to_vanish(network, gone)
    found = {
        "conventions": tally(cut(model, network, kept), shape).by_convention(),
        "dense_conventions": tally(model, shape).by_convention(),
    }
    chosen = CONVENTIONS if convention == "all" else (convention,)
    return {key: {name: counts[name] for name in chosen} for key, counts in found.items()}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"Cannot read the widths file {str(path)!r}: {error}.") from error


def _built_for(structure: dict[str, Any]) -> tuple[tuple[int, ...] | None, int | None]:
    """Returns the input shape and the classes that a structure.json names, None where it does not."""
    shape, classes = structure.get("input_shape"), structure.get("classes")
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(side, int) and side > 0 for side in shape)):
        shape = None
    return None if shape is None else tuple(shape), classes if isinstance(classes, int) and classes > 0 else None


def evaluate_saved(
    directory: Path,
    *,
    data: str | None,
    data_root: Path | None,
    split: str,
    task: str | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Returns accuracy and loss of a saved model on a part of its data.

    Args:
        directory: with `structure.json`.
        data: name of the data; None for those it was searched on.
        data_root: their folder.
        split: `test`, `train` (all training images) or `holdout` (those that scored its search).
        task: what the network does; None for what it was saved for.
        device: where to compute; None for the best at hand.

    Raises:
        RunError, DataError: the model or the data cannot be read.
        ConfigError: the device is not there.
    """
    observer = NullObserver()
    saved, problem = saved_problem(directory, data=data, data_root=data_root, task=task, observer=observer)
    model, bundle = problem.model, problem.data
    if is_unlabelled(bundle):
        otherwise = "Where nobody has labelled the images, only the dense network can tell what is right."
        dense = dense_network(directory, saved, None, observer, otherwise=otherwise)
        bundle = named_by(dense, bundle, name="the dense network", observer=observer, device=device)
    images = {"test": bundle.test, "train": bundle.train, "holdout": bundle.scoring}[split]
    indices = _holdout(directory, bundle) if split == "holdout" else None
    cost = count(model, (1, *saved.input_shape))
    scores = measure(model, images, indices, device=usable_device(device), task=bundle.task)
    return {
        "model": saved.model,
        "data": data or saved.dense["data"],
        "metric": bundle.task.reported,
        **figures(scores),
        "loss": scores.loss,
        "images": scores.images,
        **cost_entry(cost),
    }


def _holdout(directory: Path, data: DataBundle) -> IntArray:
    run, remedy = RunFolder.around(directory), "Use --split test."
    summary = run.summary(remedy=remedy)
    try:
        images, seed = summary["images"], int(summary["seed"])
        sizes = {"holdout": int(images["holdout"]), "calibration": int(images["calibration"])}
        apart = "validation" in images
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The hold-out of {str(directory)!r} is not known: {run.path / SUMMARY} does not say it. {remedy}"
        ) from error
    if apart != (data.validation is not None):
        had = "a" if apart else "no"
        raise DataError(f"The data that {str(run.path)!r} was searched on had {had} validation set. {remedy}")
    return data.split(**sizes, seed=derive_seed(seed, "split")).holdout


def _traced(
    spec: str, weights: Path | None, *, shape: tuple[int, ...] | None = None, classes: int | None = None
) -> tuple[TracedNetwork, torch.nn.Module]:
    info = model_info(spec)
    model = build_model(spec, classes=classes, weights=weights)
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, *(shape or info.input_shape or _IMAGENET_SHAPE), generator=generator)
    return verified(model, trace(model, example)), model


def _layers(network: TracedNetwork, widths: Any) -> list[dict[str, Any]]:
    by_layer: dict[str, Cost] = network.cost_model.by_layer(type(network.dense)(tuple(widths)))
    return [{"name": name, "macs": cost.macs, "params": cost.params} for name, cost in by_layer.items()]


def _heuristics(problem: Problem, whole: TracedNetwork | None, options: SearchOptions) -> dict[str, dict[str, int]]:
    """Returns {heuristic: {group: width}} within the budget and the scope."""
    prepared = prepare(problem, options, NullObserver(), whole=whole)
    found = heuristic_structures(prepared.space, prepared.profile)
    return {name: structure.by_group(prepared.space.groups) for name, structure in found.items()}
