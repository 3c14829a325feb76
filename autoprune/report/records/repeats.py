"""Runs of one search with several seeds: how far what they found lies apart.

A seed decides which images are held out and which candidates are drawn, so that the range over seeds is what a figure
may be off by. Two or three runs support no standard error: mean, least and most are told, as in the README's tables.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autoprune.core.budget import parse_budgets
from autoprune.errors import BudgetError, ConfigError
from autoprune.report import formats

Numbers = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

#: Of `numbers.numbers_of`: what runs have in common that differ in their seeds alone.
_SETTINGS = ("kind", "model", "data", "budget", "scope", "strategy", "method", "candidates", "finetune_epochs")
_FIGURES = ("accuracy", "holdout_accuracy", "retained_flops", "retained_params")
#: Of the table, on a page and on a terminal alike.
HEADINGS = ("network", "seeds", "test accuracy", "least to most", "hold-out", "least to most", "FLOPs kept")


def over_seeds(runs: Sequence[Numbers]) -> list[dict[str, Any]]:
    """Returns, for all runs that differ in their seeds alone, what each kind of network reached over the seeds.

    Args:
        runs: of `numbers.numbers_of`.

    Returns:
        `{"runs", "seeds", "model", "data", "budget", "networks"}` for every setting with two seeds or more; each of
        the networks is `{"name", "accuracy", ...}` with `{"mean", "low", "high"}` of each figure, None where a run
        does not know it.
    """
    alike: dict[str, list[Numbers]] = {}
    for numbers in runs:
        alike.setdefault(json.dumps([_setting(numbers, key) for key in _SETTINGS], default=str), []).append(numbers)
    return [_group(members) for members in alike.values() if len({one["seed"] for one in members}) > 1]


def require_repeats(numbers: Numbers, others: Iterable[Numbers]) -> None:
    """Refuses runs that are no repeats of a search with other seeds.

    Raises:
        ConfigError: something else differs, or two have the same seed.
    """
    seeds = {numbers["seed"]}
    for other in others:
        different = next((key for key in _SETTINGS if _setting(numbers, key) != _setting(other, key)), None)
        if different is not None:
            raise ConfigError(
                f"{other['folder']!r} is no repeat of {numbers['folder']!r}: {different.replace('_', ' ')} is "
                f"{other[different]!r}, not {numbers[different]!r}. Put them side by side with autoprune compare."
            )
        if other["seed"] in seeds:
            raise ConfigError(f"{other['folder']!r} has the seed {other['seed']} of another run. Name other seeds.")
        seeds.add(other["seed"])


def _setting(numbers: Numbers, key: str) -> Any:
    """Returns a setting as it is compared: '50 % flops' is the budget '50%flops'."""
    if key != "budget":
        return numbers[key]
    try:
        return sorted((one.resource, one.relative, one.floor, one.limit) for one in parse_budgets(numbers[key]))
    except BudgetError:
        return numbers[key]  # of a method that takes none, or of a record that is not ours


def with_ranges(rows: Rows, others: Sequence[Rows]) -> list[dict[str, Any]]:
    """Returns rows that say what other runs measured of the same structure on the same rung.

    Those that others measured, too, get `times`, and `low` and `high`, the least and the most hold-out accuracy.
    """
    measured: dict[object, list[float]] = {}
    for row in (row for run in (rows, *others) for row in run):
        measured.setdefault(_key(row), []).append(row["accuracy"])
    found = []
    for row in rows:
        values = measured[_key(row)]
        known = {"times": len(values), "low": min(values), "high": max(values)} if len(values) > 1 else {}
        found.append({**row, **known})
    return found


def seed_lines(group: Mapping[str, Any]) -> list[list[str]]:
    """Returns the networks of one setting as texts in the order of `HEADINGS`."""
    return [
        [
            str(network["name"]),
            str(len(group["seeds"])),
            *_mean_and_range(network["accuracy"]),
            *_mean_and_range(network["holdout_accuracy"]),
            formats.share(network["retained_flops"] and network["retained_flops"]["mean"]),
        ]
        for network in group["networks"]
    ]


def _group(members: Sequence[Numbers]) -> dict[str, Any]:
    names = [network["name"] for network in members[0]["networks"]]
    listed = [{network["name"]: network for network in one["networks"]} for one in members]
    networks = [
        {"name": name, **{key: _range([one.get(name, {}).get(key) for one in listed]) for key in _FIGURES}}
        for name in names
    ]
    return {
        "runs": [one["folder"] for one in members],
        "seeds": [one["seed"] for one in members],
        **{key: members[0][key] for key in ("model", "data", "budget")},
        "networks": networks,
    }


def _range(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return {"mean": statistics.mean(known), "low": min(known), "high": max(known)}


def _mean_and_range(values: Mapping[str, float] | None) -> tuple[str, str]:
    if values is None:
        return "-", "-"
    return formats.accuracy(values["mean"]), f"{100 * values['low']:.2f} to {100 * values['high']:.2f}"


def _key(row: Mapping[str, Any]) -> tuple[object, ...]:
    return (row["level"], *row["widths"].values())
