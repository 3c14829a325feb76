"""Where the teacher lies that somebody names for a training."""

from __future__ import annotations

from pathlib import Path

from autoprune.config.options import find_weights
from autoprune.errors import ConfigError

#: How the command line spells a teacher and the network of its weights.
_FLAGS = ("--teacher", "--teacher-model")


def find_teacher(place: Path | None, model: str | None, *, spelled: tuple[str, str] = _FLAGS) -> Path | None:
    """Returns the weights file, as named or under the folder of weights, or the folder of a saved network.

    Args:
        place: either of them; None where nobody is named.
        model: whose weights those in a file are.
        spelled: how the two were written, for messages.

    Raises:
        ConfigError: there is no such file, or a model is named for what needs none.
    """
    if place is None:
        if model is not None:
            raise ConfigError(f"{spelled[1]} says whose weights {spelled[0]} names. Name them, too.")
        return None
    if not place.is_dir():
        return find_weights(place)
    if model is not None:
        raise ConfigError(f"The folder {str(place)!r} says itself which network it holds: leave {spelled[1]} out.")
    return place
