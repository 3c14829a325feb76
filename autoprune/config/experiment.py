"""Experiment files: a search written down in TOML, so that it can be repeated by name.

format = 1
model = "cifar/resnet20-b"
weights = "resnet20_b_cifar10.pt"   # looked up beside the file, here, and under AUTOPRUNE_WEIGHTS_ROOT
data = "cifar10"
budget = ["50%flops"]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoprune.config.options import OPTIONS
from autoprune.config.resources import resource_path
from autoprune.config.toml import read_toml, require_keys
from autoprune.errors import ConfigError

_FORMAT = 1
#: Keys that are not options of a search: what the experiment is for, and the version of the file format.
_ABOUT = ("format", "description")
#: Options that name files: a relative one is looked for beside the experiment file first.
_FILES = frozenset({"weights", "data_root", "search_space"})


def load_experiment(name: str | Path) -> dict[str, Any]:
    """Returns what an experiment file sets, as keyword arguments for `SearchOptions`.

    Args:
        name: a path, or the name of an experiment that ships with autoprune.

    Raises:
        ConfigError: the file is missing or corrupt, a key is unknown, or a value is of the wrong type.
    """
    path = resource_path("experiments", str(name))
    table = read_toml(path)
    by_key = {option.key: option for option in OPTIONS.values()}
    require_keys(table, [*_ABOUT, *by_key], where=str(path))
    if table.get("format", _FORMAT) != _FORMAT:
        raise ConfigError(f"{path}: format {table['format']!r} is not known. This autoprune reads format {_FORMAT}.")
    options = {
        by_key[key].name: by_key[key].read(value, f"{path}: {key}") for key, value in table.items() if key in by_key
    }
    for key in _FILES.intersection(options):
        beside = path.parent / options[key]
        if beside.exists():
            options[key] = type(options[key])(beside)
    return options
