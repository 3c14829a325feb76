"""Versions of installed packages."""

from __future__ import annotations

import importlib.metadata


def version_of(package: str) -> str | None:
    """Returns the version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
