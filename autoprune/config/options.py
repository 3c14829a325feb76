"""The options of a search as a user writes them, on the command line or in an experiment file, and their checks.

Nothing here imports a numerical library: a typing mistake is answered at once.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from autoprune.config.layout import LEDGER, require_folder_place
from autoprune.config.resources import resource_path
from autoprune.config.spaces import AUTO, SCOPES, load_search_space, space_for
from autoprune.config.toml import type_name
from autoprune.errors import ConfigError, nearest

#: Folder that a relative `weights` is also looked up in, and the default of `data_root`.
WEIGHTS_ROOT_VARIABLE = "AUTOPRUNE_WEIGHTS_ROOT"
DATA_ROOT_VARIABLE = "AUTOPRUNE_DATA_ROOT"
#: How the channels that stay are chosen.
CHANNELS = ("elimination", "norm")
BACKENDS = ("ray", "serial")
#: What networks do; `autoprune.tasks.registry` makes them.
TASKS = ("classification", "detection", "segmentation", "outputs")

#: {kind of a folder of images: what must be in it}.
_FOLDERS = {
    "imagefolder": "It must hold train/CLASS/IMAGE files.",
    "images": "It must hold image files, in folders or not.",
    "voc": "It must hold VOCdevkit/VOC2007, or JPEGImages, Annotations and ImageSets/Main.",
    "voc-segmentation": "It must hold VOCdevkit/VOC2012, or JPEGImages, SegmentationClass and ImageSets/Segmentation.",
}
#: Those of them that may lie below the data root, too.
_BELOW_ROOT = ("images", "voc", "voc-segmentation")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[hms])+|\d+(?:\.\d+)?")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)([hms]?)")
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")

Reader = Callable[[Any, str], Any]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} is {_shown(value)}, but must be a non-empty string.")
    return value.strip()


def _texts(value: Any, where: str) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(_text(item, where) for item in items)


def _path(value: Any, where: str) -> Path:
    return value if isinstance(value, Path) else Path(_text(value, where)).expanduser()


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{where} is {_shown(value)}, but must be true or false.")
    return value


def _integer(least: int) -> Reader:
    def read(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{where} is {_shown(value)}, but must be an integer.")
        if value < least:
            raise ConfigError(f"{where} is {value}, but must be at least {least}.")
        return value

    return read


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} is {_shown(value)}, but must be a number.")
    if not math.isfinite(value) or value < 0:
        raise ConfigError(f"{where} is {value:g}, but must be a finite number of at least 0.")
    return float(value)


def _choice(names: tuple[str, ...]) -> Reader:
    def read(value: Any, where: str) -> str:
        text = _text(value, where)
        if text not in names:
            raise ConfigError(f"{where}: unknown name {text!r}.{nearest(text, names)}")
        return text

    return read


def parse_duration(value: str | float, where: str = "time limit") -> float:
    """Returns seconds, above 0: of a number, or of a text such as `90`, `90s`, `5m`, `1h` or `1h30m`.

    Raises:
        ConfigError: the text cannot be read, or the time is not above 0.
    """
    text = str(value).strip().lower() if not isinstance(value, bool) else "?"
    if not _DURATION.fullmatch(text):
        raise ConfigError(f"{where} is {_shown(value)}. Write a time such as 90s, 5m, 1h or 1h30m.")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{where} is {_shown(value)}, but must be above 0.")
    return seconds


def _device(value: Any, where: str) -> str:
    text = _text(value, where)
    if not _DEVICE.fullmatch(text):
        raise ConfigError(f"{where}: unknown device {text!r}. Write cpu, cuda or cuda:N.")
    return text


def _address(value: Any, where: str) -> str:
    text = _text(value, where)
    if text != "auto" and not re.fullmatch(r"(ray://)?[^\s:/]+:\d+", text):
        raise ConfigError(f"{where}: cannot read the address {text!r}. Write `auto` or HOST:PORT.")
    return text


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a search.

    Attributes:
        name: field of `SearchOptions`.
        flag: how the command line spells it.
        key: how an experiment file spells it.
        read: returns the checked value, or raises a `ConfigError` that begins with the place it is given.
    """

    name: str
    flag: str
    key: str
    read: Reader


def _option(name: str, read: Reader, *, spelled: str | None = None) -> Option:
    key = spelled or name
    return Option(name, "--" + key.replace("_", "-"), key, read)


#: Every option of a search, by its field of `SearchOptions`.
OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        _option("model", _text),
        _option("weights", _path),
        _option("data", _text),
        _option("data_root", _path),
        _option("task", _text),
        _option("budgets", _texts, spelled="budget"),
        _option("front", _text),
        _option("strategy", _text),
        _option("candidates", _integer(1)),
        _option("time_limit", parse_duration),
        _option("evaluation_timeout", parse_duration),
        _option("finetune_epochs", _number),
        _option("backend", _choice(BACKENDS)),
        _option("workers", _integer(1)),
        _option("gpus_per_worker", _number),
        _option("ray_address", _address),
        _option("seed", _integer(0)),
        _option("out", _path),
        _option("scope", _choice(SCOPES)),
        _option("channels", _choice(CHANNELS)),
        _option("calibration_images", _integer(1)),
        _option("holdout_images", _integer(1)),
        _option("device", _device),
        _option("latency_batch", _integer(1)),
        _option("latency_threads", _integer(1)),
        _option("search_space", _text),
        _option("tracking_uri", _text),
        _option("no_mlflow", _flag),
    )
}

#: Options whose values may lead to somebody's own code, `package.module:attribute`, which is imported and called.
CODE_OPTIONS = ("model", "data", "task", "strategy")

#: Options that may differ when a search is resumed: who works for it, where things lie, what is done at the end.
RESUMABLE = frozenset(
    (
        *("backend", "workers", "gpus_per_worker", "ray_address", "device", "time_limit", "finetune_epochs"),
        "evaluation_timeout",
        *("data_root", "tracking_uri", "no_mlflow"),
    )
)


def check_options(
    given: Mapping[str, Any],
    *,
    strategies: Sequence[str],
    from_file: Mapping[str, Any] | None = None,
    flags: bool = True,
    resumes: bool = False,
) -> dict[str, Any]:
    """Returns keyword arguments for `SearchOptions`: what is given over what a file says, all of it checked.

    Args:
        given: options of the command line by field name; only those the user wrote.
        strategies: the names of known strategies; `package.module:Class` is accepted besides.
        from_file: options of an experiment file, as `load_experiment` returns them.
        flags: whether messages name options as the command line spells them, rather than by field.
        resumes: whether `out` may hold a search, which then goes on.

    Raises:
        ConfigError: a value is wrong, a file is missing, or two options contradict each other.
        BudgetError: a budget cannot be read.
    """
    checked = {name: OPTIONS[name].read(value, OPTIONS[name].flag if flags else name) for name, value in given.items()}
    if checked.get("no_mlflow") and "tracking_uri" in checked:
        names = [OPTIONS[name].flag if flags else name for name in ("no_mlflow", "tracking_uri")]
        raise ConfigError(f"{names[0]} writes nothing to MLflow: leave {names[1]} out.")
    options = _merged(checked, dict(from_file or {}))
    _check_budgets(options)
    _check_names(options, strategies)
    _check_paths(options)
    if not resumes:
        _require_no_search(options.get("out"))
    _check_workers(options)
    return options


def default_run_folder(name: str | None, now: datetime | None = None) -> Path:
    """Returns `runs/<time>-<name>`, the folder of a run without `--out`, numbered if it exists.

    Two runs may start within one second.

    Args:
        name: of what is searched or trained; None for the default network.
        now: the time; that of the clock if None.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name or "digits/resnet").strip("-.") or "model"
    folder = Path("runs") / f"{now or datetime.now():%Y%m%d-%H%M%S}-{plain}"
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(free for free in names if not free.exists())


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float) else type_name(value)


def _merged(given: dict[str, Any], from_file: dict[str, Any]) -> dict[str, Any]:
    # `--budget` on the command line replaces the goal of the file, be it a budget or a front; so does `--front`.
    if "budgets" in given or "front" in given:
        from_file.pop("budgets", None)
        from_file.pop("front", None)
    # So does what is said of MLflow there.
    if "tracking_uri" in given:
        from_file.pop("no_mlflow", None)
    return {**from_file, **given}


def _check_budgets(options: dict[str, Any]) -> None:
    from autoprune.core.budget import Budget, parse_budgets  # imports numpy, which --help does not need

    front = options.get("front")
    if front is not None:
        if not Budget.parse(front).is_band:
            raise ConfigError(f'The front {front!r} is not a range. Write for example "20..80%flops".')
        # Without a budget of its own a front is bounded by its range alone.
        options.setdefault("budgets", ())
        _, *budgets = parse_budgets([front, *options["budgets"]])
    else:
        budgets = list(parse_budgets(options["budgets"])) if "budgets" in options else []
    for budget in budgets:
        if budget.is_band:
            raise ConfigError(f"The budget {budget.text!r} is a range. Ask for it with --front, or write one limit.")


def _check_names(options: dict[str, Any], strategies: Sequence[str]) -> None:
    strategy = options.get("strategy")
    if strategy is not None and ":" not in strategy and strategy not in strategies:
        raise ConfigError(f"Unknown strategy {strategy!r}.{nearest(strategy, strategies)}")
    model = options.get("model")
    if model is not None and "/" not in model and ":" not in model:
        raise ConfigError(
            f"Cannot read the model {model!r}. "
            "Write cifar/NAME, torchvision/NAME, digits/resnet or package.module:factory."
        )
    _check_task(options.get("task"))
    space = options.get("search_space")
    if space is not None:
        space = space_for(model or "") if space == AUTO else space
        rules = load_search_space(space)
        options["search_space"] = str(resource_path("search_spaces", space))
        if rules.scope is not None:
            options.setdefault("scope", rules.scope)


def _check_task(task: str | None) -> None:
    if task is not None and ":" not in task and task not in TASKS:
        raise ConfigError(f"Unknown task {task!r}.{nearest(task, TASKS)} Or write package.module:factory.")


def _check_paths(options: dict[str, Any]) -> None:
    weights = options.get("weights")
    if weights is not None:
        if options.get("model") is None:
            raise ConfigError(f"The weights {str(weights)!r} need a network to go into. Name it with --model.")
        options["weights"] = find_weights(weights)
    default_root = os.environ.get(DATA_ROOT_VARIABLE)
    if default_root and Path(default_root).is_dir():
        options.setdefault("data_root", Path(default_root))
    root = options.get("data_root")
    if root is not None and not root.is_dir():
        raise ConfigError(
            f"The data folder {str(root)!r} does not exist. Name the folder of the data with --data-root."
        )
    kind, colon, folder = options.get("data", "").partition(":")
    if colon and kind in (*_FOLDERS, "voc-segmentation") and not folder.strip():
        raise ConfigError(f"The data {kind + colon!r} name no folder. Write {kind}:DIR.")
    places = [Path(folder).expanduser(), *([root / folder] if kind in _BELOW_ROOT and root is not None else [])]
    if colon and kind in _FOLDERS and not any(place.is_dir() for place in places):
        raise ConfigError(f"The image folder {folder!r} does not exist. {_FOLDERS[kind]}")
    require_folder_place(options.get("out"))


def _require_no_search(out: Path | None) -> None:
    if out is not None and holds_search(out / LEDGER):
        raise ConfigError(
            f"{str(out)!r} already holds a search. Continue it with `autoprune search --resume {out}`, "
            "or name another folder with --out."
        )


def holds_search(ledger: Path) -> bool:
    """Returns whether a ledger has a whole line: one that was killed while it wrote its first holds nothing."""
    try:
        with ledger.open("rb") as lines:
            return lines.readline(1 << 24).endswith(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def find_weights(weights: Path) -> Path:
    """Returns where a weights file is: as named, or under the folder of weights.

    Raises:
        ConfigError: it is in neither place.
    """
    if weights.is_file():
        return weights
    root = os.environ.get(WEIGHTS_ROOT_VARIABLE)
    if root and not weights.is_absolute() and (Path(root) / weights).is_file():
        return Path(root) / weights
    if weights.is_dir():
        raise ConfigError(f"The weights {str(weights)!r} are a folder. Name the .pt, .pth or .safetensors file in it.")
    searched = f" (nor under {WEIGHTS_ROOT_VARIABLE}={root})" if root else ""
    raise ConfigError(f"The weights file {str(weights)!r} does not exist{searched}.")


def _check_workers(options: dict[str, Any]) -> None:
    if options.get("backend") != "serial":
        return
    for name in ("ray_address", "gpus_per_worker"):
        if options.get(name):
            raise ConfigError(
                f"The serial backend has no workers: leave {OPTIONS[name].flag} out, or use --backend ray."
            )
    if options.get("evaluation_timeout") is not None:
        raise ConfigError(
            f"The serial backend cannot end an evaluation that hangs in its own process: leave "
            f"{OPTIONS['evaluation_timeout'].flag} out, or use --backend ray."
        )
    if options.get("workers", 1) != 1:
        raise ConfigError(f"The serial backend runs one worker, not {options['workers']}. Use --backend ray for more.")
