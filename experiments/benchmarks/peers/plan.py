"""What is to be run, read from TOML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from autoprune.config.toml import read_toml, require_keys, type_name
from autoprune.errors import ConfigError

PLAN = Path(__file__).with_name("plan.toml")


@dataclass(frozen=True)
class Entry:
    """One method on one network.

    Attributes:
        evaluations: how many structures it may score; methods that need fewer use fewer.
        seeds: 0, 1, ... so many.
    """

    evaluations: int
    seeds: int


@dataclass(frozen=True)
class Network:
    """One trained network, its images and who competes on it.

    Attributes:
        name: in tables and of files.
        model: as in `autoprune search --model`.
        data: as in `--data`.
        weights: file under AUTOPRUNE_WEIGHTS_ROOT; "" for what autoprune trains itself, see `train_epochs`.
        train_epochs: of training from scratch where no weights are named; 0 for the embedded default.
        budgets: shares of the FLOPs.
        calibration: images that reconstructions and batch norms are fitted on.
        holdout: images that score.
        test: the first so many test images; 0 for all.
        finetune_epochs: of the short finetune.
        entries: {method: how it is run}.
    """

    name: str
    model: str
    data: str
    budgets: tuple[str, ...]
    weights: str = ""
    train_epochs: float = 0.0
    calibration: int = 256
    holdout: int = 500
    test: int = 0
    finetune_epochs: float = 1.0
    entries: Mapping[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One record: a method on a network within a budget with a seed."""

    network: Network
    budget: str
    method: str
    seed: int

    @property
    def entry(self) -> Entry:
        """How the method is run."""
        return self.network.entries[self.method]

    @property
    def file_name(self) -> str:
        """Of the record."""
        parts = (self.network.name, self.budget, self.method, f"seed{self.seed}")
        return "--".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts) + ".json"


def load_plan(path: Path) -> tuple[Network, ...]:
    """Returns the networks of a plan.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or missing, or a value is of the wrong type.
    """
    table = read_toml(path)
    require_keys(table, ("network",), where=str(path))
    networks = table.get("network")
    if not isinstance(networks, list) or not networks:
        raise ConfigError(f"{path} names no [[network]]. Copy one from {PLAN.name}.")
    return tuple(_network(item, path) for item in networks)


def _network(table: Mapping[str, Any], path: Path) -> Network:
    own = {item.name: item for item in fields(Network) if item.name != "entries"}
    where = f"{path}, network {table.get('name', '?')!r}"
    require_keys(table, (*own, "methods"), where=where)
    for key in ("name", "model", "data", "budgets", "methods"):
        if not table.get(key):
            raise ConfigError(f"{where}: {key!r} is missing.")
    values = {key: tuple(value) if key == "budgets" else value for key, value in table.items() if key != "methods"}
    return Network(
        **values, entries={name: _entry(item, f"{where}, {name}") for name, item in table["methods"].items()}
    )


def _entry(table: Any, where: str) -> Entry:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is {type_name(table)}. Write {{ evaluations = 100, seeds = 3 }}.")
    require_keys(table, [item.name for item in fields(Entry)], where=where)
    counts = {key: table.get(key, 1) for key in ("evaluations", "seeds")}
    for key, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{where}: {key} is {value!r}. Write a whole number of at least 1.")
    return Entry(**counts)


def tasks_of(networks: tuple[Network, ...]) -> Iterator[Task]:
    """Yields every record of a plan: seed by seed over all networks, so that what is there after a while compares."""
    for seed in range(max((entry.seeds for network in networks for entry in network.entries.values()), default=0)):
        for network in networks:
            for budget in network.budgets:
                for method, entry in network.entries.items():
                    if seed < entry.seeds:
                        yield Task(network, budget, method, seed)
