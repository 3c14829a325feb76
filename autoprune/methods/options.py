"""Checks of methods' options: each says the option, the method and what may stand there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprune.errors import ConfigError, nearest


def require_choice(value: str, known: Sequence[str], *, what: str) -> None:
    """Raises ConfigError unless the value is one of the known ones.

    Args:
        value: as given.
        known: what it may be.
        what: names the option and the method for people, such as `The option 'allocation' of L1`.
    """
    if value not in known:
        raise ConfigError(f"{what} is {value!r}.{nearest(value, known)}")


def require_at_least(method: str, least: int, **options: float) -> None:
    """Raises ConfigError if an option is smaller, or no number."""
    for name, value in options.items():
        if not least <= value < math.inf:
            raise ConfigError(f"{name} {value!r} of {method} must be at least {least}.")
