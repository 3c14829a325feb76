"""Reading of TOML files with errors that name the file, the line or key, and what to write instead."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import ConfigError, nearest


def read_toml(path: Path) -> dict[str, Any]:
    """Returns the content of a TOML file.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8, or is not TOML (the message names the line) or empty.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: this is not UTF-8 text. Save the file as UTF-8.") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Its message ends in `(at line 3, column 7)` or `(at end of document)`.
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    except ValueError as error:  # Python refuses integers of thousands of digits
        raise ConfigError(f"{path} holds a number that is too long to be read.") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply to be read. Flatten it.") from error
    if not table:
        raise ConfigError(f"{path} says nothing: it holds no key. Is it the file that was meant, and was it saved?")
    return table


def require_keys(table: Mapping[str, Any], known: Collection[str], *, where: str) -> None:
    """Checks that a table has no key that nobody reads.

    Raises:
        ConfigError: a key is unknown; the message names the nearest known one.
    """
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}.{nearest(key, known)}")


def type_name(value: object) -> str:
    """Returns what TOML calls the type of a value."""
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), f"a {type(value).__name__}")
