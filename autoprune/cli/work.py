"""What the modules of commands share: the options that a user wrote, and how work is watched and its result shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from autoprune.cli.answers import answer

if TYPE_CHECKING:
    from autoprune.report.observer import Observer

Work = Callable[[], int]

_Result = TypeVar("_Result")


def given_options(options: dict[str, Any], *, besides: tuple[str, ...]) -> dict[str, Any]:
    """Returns the options the user wrote: one that was left out is None, False or an empty list, but 0 is a value."""
    left_out = (None, False)
    return {
        name: value
        for name, value in options.items()
        if name not in besides and not any(value is nothing for nothing in left_out) and value != []
    }


def driven(work: Callable[[Observer], _Result], *, candidates: int = 0, time_limit: float | None = None) -> _Result:
    """Returns what comes of work that is watched on the terminal, where libraries are silent meanwhile.

    Args:
        work: is given who watches.
        candidates: how many a search evaluates.
        time_limit: of a search, in seconds.
    """
    from autoprune.cli.quiet import hush_libraries
    from autoprune.report.screens.live import LiveProgress

    hush_libraries()
    with LiveProgress(candidates=candidates, time_limit=time_limit) as observer:
        return work(observer)


def shown(report: Any, show: Callable[[Any], None], *, as_json: bool) -> int:
    """Prints a report, as JSON or as people read it, and returns the exit code of success."""
    if as_json:
        answer(json.dumps(report, indent=2, default=str))
    else:
        show(report)
    return 0
