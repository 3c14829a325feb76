"""Where the search spaces and experiments that ship with autoprune lie.

In a checkout they are folders beside the package; an installed wheel has them under `share/autoprune` of the
environment, listed in the record of the distribution.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Literal

from autoprune.errors import ConfigError, nearest

Kind = Literal["search_spaces", "experiments"]

_SUFFIX = ".toml"


def resource_names(kind: Kind) -> tuple[str, ...]:
    """Returns the names that ship with autoprune, without suffix, in alphabetical order."""
    return tuple(sorted(path.stem for path in _shipped(kind)))


def resource_path(kind: Kind, name: str) -> Path:
    """Returns the file of a path, or of the name of a file that ships with autoprune.

    Args:
        kind: the folder that shipped names are looked up in.
        name: a path to a file, or a shipped name such as `cifar-resnet`.

    Raises:
        ConfigError: there is no such file and no such name.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    for shipped in _shipped(kind):
        if name in (shipped.stem, shipped.name):
            return shipped
    noun, names = kind[:-1].replace("_", "-"), resource_names(kind)
    hint = nearest(name, names)
    # With a near name the others are named, too: a file's name says little, and there are few.
    known = f" Known: {', '.join(names)}." if hint.startswith(" Did") else ""
    raise ConfigError(f"There is no {noun} file or shipped {noun} {name!r}.{hint}{known}")


def is_installed(kind: Kind, path: Path) -> bool:
    """Returns whether a file ships with an installed autoprune: nothing of a user's belongs beside it."""
    return _in_checkout(kind) is None and path in _shipped(kind)


def _in_checkout(kind: Kind) -> Path | None:
    """Returns the folder in a checkout, None where autoprune is installed."""
    root = Path(__file__).resolve().parents[2]
    # A folder called `experiments` beside an installed package could be anybody's: a checkout has the project file.
    return root / kind if (root / "pyproject.toml").is_file() and (root / kind).is_dir() else None


def _shipped(kind: Kind) -> list[Path]:
    folder = _in_checkout(kind)
    if folder is not None:
        return sorted(folder.glob(f"*{_SUFFIX}"))
    try:
        recorded = importlib.metadata.files("autoprune") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    wanted = ("share", "autoprune", kind)
    return sorted(Path(str(file.locate())) for file in recorded if file.parts[-4:-1] == wanted)
