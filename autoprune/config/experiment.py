"""Experiment files: a search, or what is made of several, written down in TOML so that it can be repeated by name.

format = 1
model = "cifar/resnet20-b"
weights = "resnet20_b_cifar10.pt"   # looked up beside the file, here, and under AUTOPRUNE_WEIGHTS_ROOT
data = "cifar10"
budget = ["50%flops"]

A comparison says `kind = "comparison"` and names its `methods`, the separate `budgets` that each of them is held to,
and the `method_epochs` that methods which train may spend; everything else reads as in a search.

With `kind = "published"` a network is searched and then finetuned for `finetune_epochs`, to be held against figures
that others have `published`: a table each, of `method`, its `accuracy` and the `dense` network's in percent, the
`removed` percentage of the FLOPs, and the `source`. A table `[finetune]` may name a `teacher` in place of the dense
network (a weights file, or the folder of a saved network; the file's `teacher_model`) and the `learning_rate`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from autoprune.config.options import OPTIONS
from autoprune.config.resources import resource_path
from autoprune.config.toml import read_toml, require_keys, type_name
from autoprune.errors import ConfigError

_FORMAT = 1
_KINDS = ("search", "comparison", "published")
#: Keys that are not options of a search: what the experiment is for, and the version of the file format.
_ABOUT = ("format", "kind", "description")
#: Keys of one kind alone.
_OWN = {"comparison": ("methods", "budgets", "method_epochs"), "published": ("published", "finetune")}
#: Options that name files: a relative one is looked for beside the experiment file first.
_FILES = frozenset({"weights", "data_root", "search_space"})


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison holds against each other.

    Attributes:
        methods: names of methods; `search` stands for a search with the file's `candidates`.
        budgets: each method is run once for each.
        method_epochs: of training for methods that train.
    """

    methods: tuple[str, ...]
    budgets: tuple[str, ...]
    method_epochs: float


@dataclass(frozen=True, slots=True)
class Finetuning:
    """How a network is finetuned that is held against published figures.

    Attributes:
        epochs: passes over the training images, the file's `finetune_epochs`.
        teacher: who teaches in place of the dense network: a weights file, or the folder of a saved network.
        teacher_model: whose weights those in the file are.
        learning_rate: at its peak; None for the default of the recipe.
    """

    epochs: float
    teacher: Path | None = None
    teacher_model: str | None = None
    learning_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that others have published.

    Attributes:
        method: its name.
        accuracy: of the pruned network, in percent.
        dense: of the network before, in percent.
        removed: of the FLOPs, in percent, as its authors count.
        source: where it stands.
    """

    method: str
    accuracy: float
    dense: float
    removed: float
    source: str


def load_experiment(name: str | Path) -> dict[str, Any]:
    """Returns what the experiment file of a search sets, as keyword arguments for `SearchOptions`.

    Args:
        name: a path, or the name of an experiment that ships with autoprune.

    Raises:
        ConfigError: the file is missing or corrupt, is no search, a key is unknown, or a value is of the wrong type.
    """
    path, table = _read(name)
    if table.get("kind", _KINDS[0]) != _KINDS[0]:
        raise ConfigError(f"{path} is more than a search ({table['kind']}). Run it with `autoprune experiment {path}`.")
    return _options(path, table)


def load_comparison(name: str | Path) -> tuple[Comparison, dict[str, Any]]:
    """Returns what a comparison compares, and what it sets besides, as keyword arguments for `SearchOptions`.

    Raises:
        ConfigError: as `load_experiment`, or a part of the comparison is missing.
    """
    from autoprune.core.budget import Budget  # imports numpy, which --help does not need

    path, table = _read(name)
    texts = OPTIONS["budgets"].read
    for key in ("methods", "budgets"):
        if not table.get(key):
            raise ConfigError(f"{path}: a comparison needs `{key}`, a list of names. Add it.")
    if "budget" in table:
        raise ConfigError(
            f"{path}: a comparison has `budgets`, one for each of its runs. Write that instead of budget."
        )
    epochs = OPTIONS["finetune_epochs"].read(table.get("method_epochs", 1.0), f"{path}: method_epochs")
    methods, budgets = (texts(table[key], f"{path}: {key}") for key in ("methods", "budgets"))
    for key, values in (("methods", methods), ("budgets", budgets)):
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"{path}: {key} names {value!r} more than once. Name it once.")
    for budget in budgets:
        if Budget.parse(budget).is_band:
            raise ConfigError(f"{path}: the budget {budget!r} is a range. Write one limit for each run.")
    return Comparison(methods, budgets, epochs), _options(path, table)


def load_published(name: str | Path) -> tuple[tuple[Published, ...], Finetuning, dict[str, Any]]:
    """Returns the figures that others have published, and how what a search finds is finetuned to be held against them.

    Raises:
        ConfigError: as `load_experiment`, or a figure lacks something.
    """
    path, table = _read(name)
    entries = table.get("published")
    if not isinstance(entries, list) or not entries or not all(isinstance(item, dict) for item in entries):
        raise ConfigError(f"{path}: it needs a table [[published]] for each figure. Add one.")
    if not table.get("finetune_epochs"):
        raise ConfigError(f"{path}: finetune_epochs says how long the network is finetuned. Add it.")
    published = tuple(_published(item, f"{path}: [[published]]") for item in entries)
    options = _options(path, table)
    return published, _finetuning(path, table.get("finetune", {}), epochs=options["finetune_epochs"]), options


def _finetuning(path: Path, table: object, *, epochs: float) -> Finetuning:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: finetune is {type_name(table)}, but must be a table [finetune].")
    where = f"{path}: [finetune]"
    # Read as the options of a search are that hold a file, a name and a number.
    reads = {"teacher": "weights", "teacher_model": "model", "learning_rate": "finetune_epochs"}
    require_keys(table, list(reads), where=where)
    found = {key: OPTIONS[reads[key]].read(value, f"{where} {key}") for key, value in table.items()}
    if found.get("learning_rate") == 0:
        raise ConfigError(f"{where} learning_rate is 0, but must be above 0.")
    if "teacher" in found:
        found["teacher"] = Path(_beside(path, found["teacher"]))
    return Finetuning(epochs, **found)


def _published(entry: dict[str, Any], where: str) -> Published:
    kinds: dict[str, type | tuple[type, ...]] = {
        field.name: str if field.type == "str" else (int, float) for field in fields(Published)
    }
    require_keys(entry, list(kinds), where=where)
    for key, kind in kinds.items():
        if key not in entry or not isinstance(entry[key], kind) or isinstance(entry[key], bool):
            wanted = "a text" if kind is str else "a number of percent"
            raise ConfigError(f"{where} needs `{key}`, {wanted}. Add it.")
        # Written so that NaN fails, too.
        if kind is not str and not 0 <= entry[key] <= 100:
            raise ConfigError(f"{where}: {key} is {entry[key]}, but must lie in [0, 100] percent.")
    return Published(**entry)


def experiment_kind(name: str | Path) -> str:
    """Returns `search`, `comparison` or `published`.

    Raises:
        ConfigError: the file is missing, corrupt or of another kind.
    """
    return str(_read(name)[1].get("kind", _KINDS[0]))


def _read(name: str | Path) -> tuple[Path, dict[str, Any]]:
    path = resource_path("experiments", str(name))
    table = read_toml(path)
    if table.get("format", _FORMAT) != _FORMAT:
        raise ConfigError(f"{path}: format {table['format']!r} is not known. This autoprune reads format {_FORMAT}.")
    kind = table.get("kind", _KINDS[0])
    if kind not in _KINDS:
        raise ConfigError(f"{path}: kind {kind!r} is not known. Write one of {', '.join(_KINDS)}.")
    by_key = [option.key for option in OPTIONS.values()]
    require_keys(table, [*_ABOUT, *by_key, *_OWN.get(kind, ())], where=str(path))
    return path, table


def _options(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    by_key = {option.key: option for option in OPTIONS.values()}
    options = {
        by_key[key].name: by_key[key].read(value, f"{path}: {key}") for key, value in table.items() if key in by_key
    }
    for key in _FILES.intersection(options):
        options[key] = type(options[key])(_beside(path, options[key]))
    return options


def _beside(path: Path, named: str | Path) -> str | Path:
    """Returns the file that an experiment file names: beside it where there is one, as it is named where not."""
    beside = path.parent / named
    return beside if beside.exists() else named
