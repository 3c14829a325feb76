"""Every exception that autoprune raises on purpose: one tree, so that one `except` at the edge suffices.

A message says what went wrong, where, and what to do about it. The command line prints it as one line and
exits with code 2; a candidate that cannot be evaluated is not an exception but a `Failure` value.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class AutopruneError(Exception):
    """Base class of everything a caller can fix."""


class BudgetError(AutopruneError, ValueError):
    """A budget that cannot be read or cannot be reached."""


class StructureError(AutopruneError, ValueError):
    """Widths that do not fit the network they are meant for."""


class ConfigError(AutopruneError, ValueError):
    """An option, file or key that is unknown or has a wrong value."""


class PluginError(AutopruneError):
    """A name such as `package.module:factory` that cannot be imported or called."""


class ModelError(AutopruneError):
    """A network that cannot be built, loaded or traced."""


class WeightsError(ModelError):
    """A weights file that is missing, unreadable or made for another network."""


class DataError(AutopruneError):
    """A data set that is missing, unreadable or empty."""


class DivergenceError(AutopruneError):
    """A training whose loss or weights stopped being finite."""


class RunError(AutopruneError):
    """A run folder that is missing, locked, corrupt or of another format."""


class NotAFileError(AutopruneError, OSError):
    """A path that leads to a device, a pipe or what a process has open."""

    def __init__(self) -> None:
        """Makes the error, as the system would have made it."""
        super().__init__(errno.EINVAL, "it leads to a device or a pipe, not to a file")


class BackendError(AutopruneError):
    """Workers that cannot be started or reached."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint such as ` Did you mean 'uniform'?`, or the known names when none is close."""
    names = sorted(known)
    small = {known_name.lower(): known_name for known_name in names}  # PRUNE is as near to prune as prnue
    close = difflib.get_close_matches(name.lower(), small, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {small[close[0]]!r}?"
    return f" Known: {', '.join(names)}." if names else ""


def one_line(error: BaseException) -> str:
    """Returns the type and first line of an exception's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
