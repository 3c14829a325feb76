"""Whether a search that goes on in a folder is the one that was begun there.

`--resume` takes its options from the folder. A Python caller gives them again, perhaps others: those that the score of
a candidate depends on must be what they were, and so must images that have no name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from autoprune.config.options import OPTIONS, RESUMABLE
from autoprune.core.budget import parse_budgets
from autoprune.errors import RunError
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import Problem
from autoprune.searching.inputs.recorded import BEFORE

#: Options that the ledger compares by what they come to: the weights, the groups, the split, ...
BY_CONTENT = frozenset(
    (
        *("model", "weights", "data", "task", "budgets", "front", "strategy", "candidates", "seed", "scope", "out"),
        *("search_space", "calibration_images", "holdout_images"),
    )
)
#: {option: resources a budget on which reads it}.
_READ_BY = {"latency_batch": {"latency", "peak"}, "latency_threads": {"latency"}}


def going_on(begun: Mapping[str, Any], problem: Problem, options: SearchOptions) -> SearchOptions:
    """Returns the options that a search goes on with: those that no budget reads may differ, and are as they were.

    Called before anything is computed.

    Args:
        begun: what its ledger says of the run; empty where none was begun.
        problem: network and images.
        options: as asked now.

    Raises:
        RunError: it was begun with others.
    """
    changed = [*changed_options(begun.get("options"), options), *_images(begun.get("images"), problem)]
    if changed:
        pairs = ", ".join(f"{name}={old!r} (now {new!r})" for name, old, new in changed)
        raise RunError(
            f"The search in {str(options.out)!r} was started with {pairs}. Give it what it was started with, or "
            "begin another in another folder with out=..."
        )
    recorded = begun.get("options")
    # Candidates are recorded with the peak of their activations, which is for so many images.
    then = recorded.get("latency_batch", 1) if isinstance(recorded, Mapping) else None
    return replace(options, latency_batch=then) if type(then) is int and then > 0 else options


def changed_options(recorded: Any, options: SearchOptions) -> list[tuple[str, Any, Any]]:
    """Returns (name, value then, value now) of every option that has changed and may not."""
    if not isinstance(recorded, Mapping):
        return []
    now, usual = options.to_json(), {**asdict(SearchOptions()), **BEFORE}
    # The ledger compares the budgets themselves.
    asked = {budget.resource for budget in parse_budgets(options.goals)}
    idle = {name for name, read_by in _READ_BY.items() if not asked & read_by}
    names = [name for name in OPTIONS if name not in RESUMABLE | BY_CONTENT | idle]
    pairs = [(name, recorded.get(name, usual[name]), now[name]) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]


def _images(recorded: Any, problem: Problem) -> list[tuple[str, Any, Any]]:
    """Returns (part, images then, images now) of every part that has changed; older searches wrote none down."""
    if not isinstance(recorded, Mapping) or not problem.digests:
        return []
    names = [name for name in ("training", "validation", "test") if name in {*recorded, *problem.digests}]
    pairs = [(f"{name} images", recorded.get(name), problem.digests.get(name)) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]
