"""Names such as `package.module:factory` that lead to a user's own code."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from autoprune.errors import PluginError, nearest, one_line


def is_plugin(spec: str) -> bool:
    """Returns whether a name has the form `package.module:attribute`."""
    module, colon, attribute = spec.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])


def resolve_attribute(spec: str) -> Any:
    """Returns what `package.module:attribute` names; modules in the working directory are found, too.

    Raises:
        PluginError: the name has another form, the module cannot be imported, or the attribute is missing.
    """
    if not is_plugin(spec):
        raise PluginError(f"Cannot read the name {spec!r}. Write it as package.module:attribute.")
    module_name, _, path = spec.partition(":")
    # A console script does not search the working directory, yet that is where users keep their own module.
    # Appended, so that it hides no installed package; kept, so that worker processes find the module again.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    target: Any = _import(module_name, spec)
    for name in path.split("."):
        if not hasattr(target, name):
            raise PluginError(
                f"{module_name!r} has no attribute {name!r} (asked for by {spec!r}).{_nearest_attribute(name, target)}"
            )
        target = getattr(target, name)
    return target


def require_foreign(spec: str | None, folder: Path) -> None:
    """Checks a name that a file gives and not a person: it must not run code that came with the file.

    A function of Python's own library is no network and no data set, but may do harm.

    Args:
        spec: `package.module:attribute`; any other name is fine.
        folder: of the file.

    Raises:
        PluginError: the module lies in the folder, or in Python's library.
    """
    if spec is None or not is_plugin(spec):
        return
    top = spec.partition(":")[0].partition(".")[0]
    if top in sys.stdlib_module_names:
        raise PluginError(f"The name {spec!r} in {str(folder)!r} leads into Python's own library. It is not called.")
    try:
        # As `resolve_attribute` finds it; the module itself is not run.
        found = PathFinder.find_spec(top, [*sys.path, os.getcwd()])
    except (ImportError, ValueError) as error:
        raise PluginError(f"The module {top!r} of {spec!r} cannot be looked up: {one_line(error)}") from error
    places = [] if found is None else [found.origin or "", *(found.submodule_search_locations or ())]
    if any(place and Path(place).resolve().is_relative_to(folder.resolve()) for place in places):
        raise PluginError(
            f"{spec!r} would run code that lies in {str(folder)!r} itself. If you trust it, move the module elsewhere."
        )


def call_factory(spec: str, *, optional: Mapping[str, Any] | None = None) -> Any:
    """Returns what calling `package.module:factory` gives.

    Args:
        spec: the factory's name.
        optional: keyword arguments passed on only if the factory takes them by name.

    Raises:
        PluginError: it cannot be found, cannot be called, or raises.
    """
    factory = resolve_attribute(spec)
    if not callable(factory):
        raise PluginError(f"{spec!r} is a {type(factory).__name__}, not a function or class that can be called.")
    try:
        taken = set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        taken = set()
    arguments = {name: value for name, value in (optional or {}).items() if name in taken}
    try:
        return factory(**arguments)
    except (Exception, SystemExit) as error:
        raise PluginError(f"Calling {spec!r} failed: {one_line(error)}") from error


def _import(module_name: str, spec: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only a missing part of the asked name is the user's spelling; anything else is missing inside their module.
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise PluginError(
                f"No module {error.name!r} is found for {spec!r}. Install it, or run from the folder that holds it."
            ) from error
        raise PluginError(f"Importing {module_name!r} for {spec!r} failed: {one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"Importing {module_name!r} for {spec!r} failed: {one_line(error)}") from error


def _nearest_attribute(name: str, target: Any) -> str:
    hint = nearest(name, [known for known in dir(target) if not known.startswith("_")])
    # The whole list of a module's names would not be one clear line.
    return hint if hint.startswith(" Did") else ""
