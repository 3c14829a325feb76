"""Torch-Pruning through its public API: every scope and importance, its ratio bisected to the budget.

It has no search: a configuration gives one network. Whoever uses it tries several, and so does this: each is scored,
and the best on the images that score is handed over. Settings whose networks no longer run are left out and named.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from autoprune.core.candidate import Merge
from autoprune.errors import RunError, one_line
from experiments.benchmarks.peers.arena import Arena, Clock, Run, Step
from experiments.benchmarks.peers.plan import Task

#: Norm of the filters, of everything that is cut with a channel, and its first-order Taylor expansion.
IMPORTANCES: dict[str, Callable[[], Any]] = {
    "l2": lambda: tp.importance.MagnitudeImportance(p=2, group_reduction="first"),
    "group-l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "taylor": lambda: tp.importance.GroupTaylorImportance(),
}
SCOPES: dict[str, dict[str, bool]] = {
    "uniform": {"global_pruning": False},
    "global": {"global_pruning": True},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
}
#: Whether channels of residual streams may be cut, too.
REACHES = ("inside", "everything")
_BISECTIONS = 8
_GRADIENT_BATCH = 64


def run(arena: Arena, task: Task) -> Run:
    """Returns the best of all configurations: one by its own cut, one by ours."""
    clock = Clock()
    gradients = _gradients(arena)
    reaches = REACHES if len(arena.whole.network.groups) > len(arena.inner.network.groups) else REACHES[1:]
    tried: dict[str, float] = {}
    failed: dict[str, str] = {}
    steps: list[Step] = []
    own: nn.Module | None = None
    best_own, best_cut, named = -1.0, -1.0, ""
    for importance, scope, reach in product(IMPORTANCES, SCOPES, reaches):
        name = f"{scope} {importance} {reach}"
        ignored = _ignored(arena, reach)
        try:
            found = _fitted(arena, task.budget, IMPORTANCES[importance](), SCOPES[scope], ignored, gradients)
        except Exception as error:  # of a network that no longer runs: the other settings shall not suffer for it
            failed[name] = one_line(error)
            continue
        if found is None:
            continue
        structure = arena.widths_of(found)
        score = arena.goodness(arena.settled(found))
        tried[name] = score
        if score > best_own:
            best_own, own, named = score, found, name
        if structure is not None and arena.score(structure, Merge.SEQUENTIAL).score > best_cut:
            best_cut = arena.score(structure, Merge.SEQUENTIAL).score
            steps.append(Step(len(tried), clock.seconds, structure))
    if own is None:
        reasons = "".join(f" {name}: {reason}." for name, reason in list(failed.items())[:1])
        raise RunError(f"No configuration of Torch-Pruning reaches {task.budget}.{reasons}")
    facts = {"configurations": len(tried), "best": named, "scores": tried, "failed": failed}
    return Run(tuple(steps), len(tried), clock.seconds, own=own, facts=facts)


def _ignored(arena: Arena, reach: str) -> set[str]:
    """Returns the names of the layers whose outputs are left alone: the last one, and streams where asked."""
    layers = {name for name, item in arena.dense.named_modules() if isinstance(item, nn.Conv2d | nn.Linear)}
    outputs = {name for name, item in arena.dense.named_modules() if isinstance(item, nn.Linear)}
    depthwise = {name for name in layers if getattr(arena.dense.get_submodule(name), "groups", 1) > 1}
    return outputs if reach == "everything" else layers - arena.inner_layers() - depthwise


def _gradients(arena: Arena) -> dict[str, Tensor]:
    """Returns the gradient of the loss on training images that do not score, for the Taylor expansion."""
    model = copy.deepcopy(arena.dense)
    images, labels = arena.images(arena.network.calibration)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for start in range(0, len(images), _GRADIENT_BATCH):
        block = slice(start, start + _GRADIENT_BATCH)
        nn.functional.cross_entropy(model(images[block]), labels[block], reduction="sum").backward()
    return {name: item.grad for name, item in model.named_parameters() if item.grad is not None}


def _fitted(
    arena: Arena, budget: str, importance: Any, scope: dict[str, bool], ignored: set[str], gradients: dict[str, Tensor]
) -> nn.Module | None:
    """Returns the largest network within the budget that one ratio for all gives, by bisection; None without any."""
    low, high, ceiling = 0.0, 1.0, arena.ceiling(budget)
    best: tuple[int, nn.Module] | None = None
    for _ in range(_BISECTIONS):
        ratio = (low + high) / 2
        model = _pruned(arena, ratio, importance, scope, ignored, gradients)
        macs = arena.count(model)
        if macs <= ceiling:
            high = ratio
            best = (macs, model) if best is None or macs > best[0] else best
        else:
            low = ratio
    return None if best is None else best[1]


def _pruned(
    arena: Arena,
    ratio: float,
    importance: Any,
    scope: dict[str, bool],
    ignored: set[str],
    gradients: dict[str, Tensor],
) -> nn.Module:
    model = copy.deepcopy(arena.dense)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(True)
        parameter.grad = gradients[name].clone() if name in gradients else None
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            model,
            arena.example,
            importance=importance,
            pruning_ratio=ratio,
            ignored_layers=[model.get_submodule(name) for name in ignored],
            **scope,
        )
        pruner.step()
    return model.eval()
