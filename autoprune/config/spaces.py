"""Search-space files: which widths a family of networks may take.

    scope = "coupled"
    min_retain = 0.1
    multiple_of = 1
    frozen = ["stem.*"]

    [[rule]]
    match = "layer1.*"
    min_width = 4

`min_width = 0` lets a group vanish, and with it the residual branch that it lies in, where that is proved to leave a
network (`autoprune.models.verification.depth`).

Patterns are shell patterns over the names of prunable groups (`autoprune trace MODEL` lists them). The last rule that
matches a group and names a limit decides it; `min_width` and `min_retain` are one limit, the least width, of which a
rule that names both means the larger. A shipped file names the networks that it is for (`models`), which is
how `auto` finds it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from autoprune.config.resources import resource_names, resource_path
from autoprune.config.toml import read_toml, require_keys, type_name
from autoprune.core.structure import PrunableGroup
from autoprune.errors import ConfigError, nearest

SCOPES = ("internal", "coupled")
#: Names of search spaces: the shipped one that is for the network, and the one for networks that none is for.
AUTO, ANY_NETWORK = "auto", "default"

_LIMIT_KEYS = ("min_width", "min_retain", "multiple_of")
_FILE_KEYS = ("format", "description", "models", "scope", "frozen", "rule", *_LIMIT_KEYS)
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class GroupRule:
    """Limits of the groups whose names match a pattern.

    What is None is left to the rules before it; of `min_width` and `min_retain`, one alone sets the least width anew.

    Attributes:
        match: shell pattern over group names.
        min_width: fewest channels; a narrower group keeps all of its channels. 0: it may vanish.
        min_retain: smallest share of the dense width, in (0, 1].
        multiple_of: kept widths are multiples of this, or the dense width.
    """

    match: str
    min_width: int | None = None
    min_retain: float | None = None
    multiple_of: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_width", "multiple_of"):
            value = getattr(self, name)
            least = 0 if name == "min_width" else 1
            if value is not None and value < least:
                raise ConfigError(f"{name} {value} of the rule {self.match!r} must be at least {least}.")
        if self.min_retain is not None and not 0 < self.min_retain <= 1:
            raise ConfigError(f"min_retain {self.min_retain:g} of the rule {self.match!r} does not lie in (0, 1].")


@dataclass(frozen=True, slots=True)
class SearchSpaceRules:
    """What a search-space file says.

    Attributes:
        source: the file, for messages.
        scope: `internal` or `coupled`; None where the file does not say.
        frozen: patterns of groups that keep their dense width.
        rules: in the order of the file; the last match wins.
        models: patterns of the names of networks that the file is for; empty where it does not say.
    """

    source: str
    scope: str | None = None
    frozen: tuple[str, ...] = ()
    rules: tuple[GroupRule, ...] = ()
    models: tuple[str, ...] = ()


def load_search_space(name: str | Path) -> SearchSpaceRules:
    """Returns the rules of a search-space file.

    Args:
        name: a path, or the name of a search space that ships with autoprune, such as `cifar-resnet`.

    Raises:
        ConfigError: the file is missing or corrupt, a key is unknown, or a value is wrong.
    """
    path = resource_path("search_spaces", str(name))
    table = read_toml(path)
    require_keys(table, _FILE_KEYS, where=str(path))
    if table.get("format", _FORMAT) != _FORMAT:
        raise ConfigError(f"{path}: format {table['format']!r} is not known. This autoprune reads format {_FORMAT}.")
    scope = table.get("scope")
    if scope is not None and scope not in SCOPES:
        raise ConfigError(f"{path}: unknown scope {scope!r}.{nearest(str(scope), SCOPES)}")
    rules = _rules(table.get("rule", []), path)
    everywhere = _rule({key: table[key] for key in _LIMIT_KEYS if key in table}, match="*", where=str(path))
    frozen = _patterns(table.get("frozen", []), 'frozen = ["layer1.*"]', path)
    models = _patterns(table.get("models", []), 'models = ["cifar/resnet*"]', path)
    return SearchSpaceRules(str(path), scope, frozen, (everywhere, *rules), models)


def space_for(model: str) -> str:
    """Returns the name of the shipped search space that is for a network, `default` where none is.

    Args:
        model: the network's name; a user's own factory and an object without a name have the default.
    """
    for name in resource_names("search_spaces"):
        if any(fnmatchcase(model, pattern) for pattern in load_search_space(name).models):
            return name
    return ANY_NETWORK


def apply_rules(groups: Sequence[PrunableGroup], rules: SearchSpaceRules) -> tuple[PrunableGroup, ...]:
    """Returns the same groups, in the same order, with the limits that the rules set.

    A frozen group stays in the list, with its dense width as its only legal width, so that cost models keep their
    indices.

    Raises:
        ConfigError: a pattern matches no group.
    """
    for pattern in (*rules.frozen, *(rule.match for rule in rules.rules)):
        if groups and not any(fnmatchcase(group.name, pattern) for group in groups):
            hint = nearest(pattern, [group.name for group in groups])
            raise ConfigError(f"{rules.source}: the pattern {pattern!r} matches no prunable group.{hint}")
    return tuple(_limited(group, rules) for group in groups)


def _limited(group: PrunableGroup, rules: SearchSpaceRules) -> PrunableGroup:
    if any(fnmatchcase(group.name, pattern) for pattern in rules.frozen):
        return dataclasses.replace(group, min_width=group.width)
    least, multiple = group.min_width, group.multiple_of
    for rule in rules.rules:
        if not fnmatchcase(group.name, rule.match):
            continue
        if rule.min_width is not None or rule.min_retain is not None:
            # 1e-9: 0.07 of 100 channels are 7, though the product is 7.000000000000001.
            share = math.ceil(group.width * (rule.min_retain or 0.0) - 1e-9)
            fewest = 1 if rule.min_width is None else rule.min_width
            least = min(group.width, max(fewest, share))
        multiple = rule.multiple_of or multiple
    branch = group.name if least == 0 else ""
    return dataclasses.replace(group, min_width=least, multiple_of=multiple, branch=branch)


def _rules(tables: Any, path: Path) -> tuple[GroupRule, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{path}: rule is {type_name(tables)}, but must be one or more [[rule]] tables.")
    rules = []
    for number, table in enumerate(tables, start=1):
        where = f"{path}: rule {number}"
        require_keys(table, ("match", *_LIMIT_KEYS), where=where)
        match = table.get("match")
        if not isinstance(match, str) or not match:
            raise ConfigError(f'{where} needs a match, for example match = "layer1.*".')
        rules.append(_rule({key: table[key] for key in table if key != "match"}, match=match, where=where))
    return tuple(rules)


def _rule(limits: dict[str, Any], *, match: str, where: str) -> GroupRule:
    for key, value in limits.items():
        numeric = isinstance(value, int | float) if key == "min_retain" else isinstance(value, int)
        if not numeric or isinstance(value, bool):
            wanted = "a number in (0, 1]" if key == "min_retain" else "an integer"
            raise ConfigError(f"{where}: {key} is {type_name(value)}, but must be {wanted}.")
    try:
        return GroupRule(match, **limits)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _patterns(value: Any, example: str, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(pattern, str) for pattern in value):
        key = example.partition(" ")[0]
        raise ConfigError(f"{path}: {key} must be a list of patterns, for example {example}.")
    return tuple(value)
