"""Methods by name, imported on first use: scikit-learn and training code take seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from autoprune.errors import ConfigError, nearest
from autoprune.methods.base import Method
from autoprune.plugins import resolve_attribute

_HOME: Mapping[str, str] = {
    "reconstruction": "autoprune.methods.reconstruction:Heuristic",
    "eprune": "autoprune.methods.eprune:EPrune",
    "ccm": "autoprune.methods.ccm:ChannelIndependence",
    "pca": "autoprune.methods.pca:PrincipalComponents",
    "acp": "autoprune.methods.acp:Acp",
    "ascp": "autoprune.methods.ascp:Ascp",
    "psap": "autoprune.methods.psap:Psap",
    "abc": "autoprune.methods.bee_colony:BeeColony",
    "l1": "autoprune.methods.criteria:L1",
    "l2": "autoprune.methods.criteria:L2",
    "fpgm": "autoprune.methods.criteria:Fpgm",
    "taylor": "autoprune.methods.criteria:Taylor",
    "hrank": "autoprune.methods.criteria:HRank",
    "orthoreg": "autoprune.methods.criteria:OrthoFisher",
    "uniform": "autoprune.methods.criteria:Uniform",
}


def name_of(method: Method) -> str:
    """Returns what users call a method: its short name, or `package.module:Class`."""
    path = f"{type(method).__module__}:{type(method).__qualname__}"
    return next((name for name, home in _HOME.items() if home == path), path)


def described_methods() -> list[dict[str, Any]]:
    """Returns of every short name what it stands for: name, source, whether it trains, its options with defaults."""
    found = []
    for name, path in _HOME.items():
        kind = resolve_attribute(path)
        options = [f"{field.name}={field.default}" for field in fields(kind) if field.name != "as_published"]
        found.append({"name": name, "source": kind.source, "trains": kind.trains, "options": options})
    return found


def make_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Returns a method with some of its options set.

    Args:
        name: a short name or `package.module:Class`.
        options: values by field name; texts are read as the type of the field's default.

    Raises:
        ConfigError: the method or an option of it is unknown, or a value cannot be read.
        PluginError: a class of that path cannot be imported.
    """
    if ":" not in name and name not in _HOME:
        raise ConfigError(f"Unknown method {name!r}.{nearest(name, _HOME)}")
    kind = resolve_attribute(_HOME.get(name, name))
    if not is_dataclass(kind) or not isinstance(kind, type) or not callable(getattr(kind, "prune", None)):
        raise ConfigError(
            f"{name!r} is no method: it must be a dataclass with `prune`, as autoprune.methods.base says."
        )
    known = {field.name: field for field in fields(kind)}
    bare = [field.name for field in known.values() if field.default is MISSING]
    if bare:
        raise ConfigError(f"The method {name!r} needs a default for its option {bare[0]!r}, one of a plain type.")
    read: dict[str, Any] = {}
    for key, value in (options or {}).items():
        if key not in known:
            raise ConfigError(f"The method {name!r} has no option {key!r}.{nearest(key, known)}")
        read[key] = _read(value, known[key].default, f"The option {key!r} of the method {name!r}")
    made: Any = kind(**read)
    method: Method = made
    return method


def _read(value: Any, default: Any, what: str) -> Any:
    """Returns a text as a value of the default's type; anything else as it is, whole numbers as floats if need be."""
    kind = type(default)
    if isinstance(value, str) and kind is bool:
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"{what} is {value!r}. Write true or false.")
        return value.lower() == "true"
    if isinstance(value, str) and kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            raise ConfigError(f"{what} is {value!r}. Write {'an integer' if kind is int else 'a number'}.") from None
        return _finite(number, value, what)
    # True is an int to Python, but no count.
    fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(float(value), value, what)
    if default is not None and not fits:
        raise ConfigError(f"{what} is {value!r}, but must be of the kind of {default!r}.")
    return value


def _finite(number: float, value: Any, what: str) -> float:
    if not math.isfinite(number):
        raise ConfigError(f"{what} is {value!r}. Write a finite number.")
    return number
