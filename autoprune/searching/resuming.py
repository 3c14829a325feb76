"""Whether a search that goes on in a folder is the one that was begun there.

`--resume` takes its options from the folder. A Python caller gives them again, perhaps others: those that the score of
a candidate depends on must be what they were, and so must images that have no name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from autoprune.config.options import OPTIONS, RESUMABLE
from autoprune.errors import RunError
from autoprune.searching.options import SearchOptions
from autoprune.searching.problems import Problem
from autoprune.searching.recorded import BEFORE

#: Options that the ledger compares by what they come to: the weights, the groups, the split, ...
BY_CONTENT = frozenset(
    (
        *("model", "weights", "data", "task", "budgets", "front", "strategy", "candidates", "seed", "scope", "out"),
        *("search_space", "calibration_images", "holdout_images"),
    )
)


def require_same(begun: Mapping[str, Any], problem: Problem, options: SearchOptions) -> None:
    """Checks, before anything is computed, that a search was begun with these options and images.

    Args:
        begun: what its ledger says of the run; empty where none was begun.
        problem: network and images.
        options: as asked now.

    Raises:
        RunError: it was begun with others.
    """
    changed = [*_options(begun.get("options"), options), *_images(begun.get("images"), problem)]
    if changed:
        pairs = ", ".join(f"{name}={old!r} (now {new!r})" for name, old, new in changed)
        raise RunError(
            f"The search in {str(options.out)!r} was started with {pairs}. Give it what it was started with, or "
            "begin another in another folder with out=..."
        )


def _options(recorded: Any, options: SearchOptions) -> list[tuple[str, Any, Any]]:
    """Returns (name, value then, value now) of every option that has changed and may not."""
    if not isinstance(recorded, Mapping):
        return []
    now, usual = options.to_json(), {**asdict(SearchOptions()), **BEFORE}
    names = [name for name in OPTIONS if name not in RESUMABLE | BY_CONTENT]
    pairs = [(name, recorded.get(name, usual[name]), now[name]) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]


def _images(recorded: Any, problem: Problem) -> list[tuple[str, Any, Any]]:
    """Returns (part, images then, images now) of every part that has changed; older searches wrote none down."""
    if not isinstance(recorded, Mapping) or not problem.digests:
        return []
    names = [name for name in ("training", "validation", "test") if name in {*recorded, *problem.digests}]
    pairs = [(f"{name} images", recorded.get(name), problem.digests.get(name)) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]
