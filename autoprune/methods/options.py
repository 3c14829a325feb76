"""What is refused of methods' options, in one spelling: the option, the method and what may stand there."""

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


def unpublished(reason: str, *, instead: str = " and give a budget") -> ConfigError:
    """Returns the error where a published procedure is asked for that there is none of, or none for this network.

    Args:
        reason: a sentence.
        instead: what to do besides leaving the option out.
    """
    return ConfigError(f"{reason} Leave --as-published (as_published in Python) out{instead}.")


def refuse_published(name: str, asked: bool) -> None:
    """Raises ConfigError where a published procedure is asked for that nobody could read."""
    if asked:
        raise unpublished(f"{name} cannot run as published: the paper's constants could not be had.")
