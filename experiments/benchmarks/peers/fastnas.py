"""ModelOpt's FastNAS through its public API: at its finest grid, held to our count of the budget.

FastNAS scores every width of every group with all others dense, and bisects one threshold over that table. It never
scores what it hands over. Two answers are read from one table: with all that it can cut, and with the channels inside
blocks only; the better one on the images that score is handed over, which costs two scorings more. Its batch norms are
recalibrated before every scoring on the images that everybody has, in one batch: the same statistics as from the 50
batches that it collects by itself, in a tenth of the time.
"""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import modelopt.torch.nas as mtn
import torch
from modelopt.torch.opt.utils import named_hparams
from modelopt.torch.prune.fastnas import FastNASModeDescriptor
from torch import nn

from autoprune.core.candidate import Merge
from autoprune.errors import RunError
from experiments.benchmarks.peers.arena import Arena, Clock, Run, Step
from experiments.benchmarks.peers.plan import Task

#: Shares of a group's channels on the grid, at most: with divisor 1 and as many as the widest group has, every width.
_GRIDS = (512, 256, 128, 96, 64, 48, 32, 20, 16, 12, 10, 8, 6, 5, 4)
#: Its count of FLOPs differs from ours by what is neither convolution nor linear, so its limit is adjusted.
_ADJUSTMENTS = 2
#: A network that keeps this share of what the budget allows is near enough.
_NEAR = 0.98


def run(arena: Arena, task: Task, merge: Merge | None = None) -> Run:
    """Returns what FastNAS finds.

    Args:
        arena: where.
        task: what; FastNAS takes the finest grid whose table needs no more scorings than `evaluations`.
        merge: None for FastNAS's own slices; else widths are scored after a cut of ours.
    """
    clock = Clock(0.0 if merge is None else arena.seconds)
    calls = 0

    def score(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if merge is None:
            return arena.goodness(arena.settled(model))
        structure = arena.widths_of(model, counted=False)
        if structure is None:
            raise RunError("FastNAS cuts what our groups cannot express.")
        return arena.score(structure, merge).score

    grid = _finest(arena, task.entry.evaluations)
    inside = len(arena.whole.network.groups) > len(arena.inner.network.groups)
    found: dict[str, nn.Module] = {}
    with tempfile.TemporaryDirectory() as folder:
        for reach in ("everything", "inside") if inside else ("everything",):
            try:
                found[reach] = _fitted(
                    arena, task.budget, score, grid=grid, reach=reach, table=Path(folder) / "table.pth"
                )
            except (ValueError, AssertionError, RunError):
                if reach == "everything":
                    raise
    own: nn.Module | None = None
    best_own, best_cut, steps = -1.0, -1.0, []
    for model in found.values():
        structure = arena.widths_of(model)
        calls += 1
        mine = arena.goodness(arena.settled(model))
        if mine > best_own:
            best_own, own = mine, model
        if structure is not None and arena.score(structure, Merge.SEQUENTIAL).score > best_cut:
            best_cut = arena.score(structure, Merge.SEQUENTIAL).score
            steps.append(Step(calls, clock.seconds, structure))
    shares = {reach: arena.count(model) / arena.count(arena.dense) for reach, model in found.items()}
    facts = {"grid": grid, "kept": shares}
    return Run(tuple(steps[-1:]), calls, clock.seconds, own=own, facts=facts)


def _finest(arena: Arena, most: int) -> int:
    """Returns the finest grid whose table has at most so many entries."""
    widest = max(group.width for group in arena.whole.network.groups)
    # Converting takes seconds: the grids' sizes are counted on one conversion.
    widths = [hp.max for _, hp in named_hparams(_converted(arena, widest), configurable=True)]
    for grid in (grid for grid in _GRIDS if grid < 2 * widest):
        if 1 + sum(len({round(width * index / grid) for index in range(1, grid)}) for width in widths) <= most:
            return grid
    return _GRIDS[-1]


def _converted(arena: Arena, grid: int) -> nn.Module:
    config = FastNASModeDescriptor().config_class().model_dump()
    shares = tuple(index / grid for index in range(1, grid + 1))
    for rules in config.values():
        for settings in rules.values():
            settings.update({key: 1 for key in settings if key.endswith("_divisor")})
            settings.update({key: shares for key in settings if key in ("channels_ratio", "features_ratio")})
    with _quiet():
        model: nn.Module = mtn.convert(copy.deepcopy(arena.dense), mode=[("fastnas", config)])
    if any(isinstance(item, nn.Conv2d) and item.groups > 1 for item in arena.dense.modules()):
        # One channel of a depthwise layer is taken for an ungrouped one (ModelOpt 0.47: IndexError in its slices).
        for _, hp in named_hparams(model, configurable=True):
            hp.choices = [choice for choice in hp.choices if choice > 1 or choice == hp.original]
    return model


def _fitted(
    arena: Arena, budget: str, score: Callable[[nn.Module], float], *, grid: int, reach: str, table: Path
) -> nn.Module:
    """Returns the largest network within our budget of a few searches with the same table."""
    ceiling, dense = arena.ceiling(budget), arena.count(arena.dense)
    share, best = 100 * ceiling / dense, None
    for _ in range(_ADJUSTMENTS):
        model = _searched(arena, score, share=share, grid=grid, reach=reach, table=table)
        macs = arena.count(model)
        if macs <= ceiling and (best is None or macs > best[0]):
            best = (macs, model)
        if _NEAR * ceiling <= macs <= ceiling:
            break
        share *= min(1.05, 0.999 * ceiling / macs)
    if best is None:
        raise RunError(f"FastNAS does not reach {budget}.")
    return best[1]


def _searched(
    arena: Arena, score: Callable[[nn.Module], float], *, share: float, grid: int, reach: str, table: Path
) -> nn.Module:
    model = _converted(arena, grid)
    if reach == "inside":
        layers = arena.inner_layers()
        for name, hp in named_hparams(model, configurable=True):
            if name.rpartition(".")[0] not in layers:
                hp.choices = [hp.original]
        _restrict(table, {name for name, _ in named_hparams(model, configurable=True)})
    smallest = _smallest(model, arena)
    if 100 * smallest > share:
        raise RunError(f"FastNAS keeps at least {100 * smallest:.1f} % of this network's multiply-accumulates.")
    with _quiet():
        pruned, _ = mtn.search(
            model,
            constraints={"flops": f"{share:.4f}%"},
            dummy_input=arena.example,
            config={
                "score_func": score,
                "checkpoint": str(table),
                "verbose": False,
            },
        )
    exported: nn.Module = pruned.eval()
    return exported


def _smallest(model: nn.Module, arena: Arena) -> float:
    """Returns the share of the multiply-accumulates that the smallest network of a search space keeps."""
    with _quiet():
        mtn.sample(model, min)
        share = arena.count(model) / arena.count(arena.dense)
        mtn.sample(model, max)
    return share


def _restrict(table: Path, names: set[str]) -> None:
    """Leaves in a stored table only the groups that are searched."""
    state = torch.load(table, weights_only=False)
    state["sensitivity_map"] = {name: row for name, row in state["sensitivity_map"].items() if name in names}
    torch.save(state, table)


@contextmanager
def _quiet() -> Iterator[Any]:
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
