"""What the modules of commands share: the work that a command is, and the options that a user wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Work = Callable[[], int]


def given_options(options: dict[str, Any], *, besides: tuple[str, ...]) -> dict[str, Any]:
    """Returns the options the user wrote: one that was left out is None, False or an empty list, but 0 is a value."""
    left_out = (None, False)
    return {
        name: value
        for name, value in options.items()
        if name not in besides and not any(value is nothing for nothing in left_out) and value != []
    }
