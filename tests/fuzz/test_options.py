"""What a person types and the TOML files that a person writes: thousands of wrong ones, and no traceback."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.sampled_from(
    ["50%flops", "20..80%flops", "0%flops", "1e9macs", "nan", "inf", "-1", "", " ", "1h30m", "cpu", "auto", "digits"]
)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
VALUES = st.one_of(WORDS, TEXT, st.integers(-10, 1 << 70).map(str), st.floats().map(str))
NUMBERS = st.sampled_from(["5", "50", "500", "1.5", "0.0", "9" * 400, "²", "٣", "1e5", "-3"])
SCALES = st.sampled_from(["%", "", "k", "M", " G", "%%"])
UNITS = st.sampled_from(["flops", "macs", "params", "FLOPS", "flop", ""])
BUDGETS = st.one_of(
    VALUES,
    st.builds("{}..{}{}{}".format, NUMBERS, NUMBERS, SCALES, UNITS),
    st.builds("{}{}{}".format, NUMBERS, SCALES, UNITS),
)


@pytest.fixture
def no_work(monkeypatch):
    """Lets every search, training and pruning end before it begins."""
    import autoprune.searching.experiments.runner  # noqa: F401 (imported while the search is replaced, it would keep that one)

    summary = {"format": 1, "model": "m", "folder": "f", "interrupted": False, "incumbent": {"accuracy": 0.9}}
    result = types.SimpleNamespace(summary=summary, out=Path("run"), require_found=lambda: None)
    monkeypatch.setattr("autoprune.searching.search.api.run_search", lambda options, *, observer: result)
    for name in ("show_summary", "show_training", "show_prune", "show_trace"):
        monkeypatch.setattr(f"autoprune.cli.render.{name}", lambda summary: None, raising=False)
    monkeypatch.setattr("autoprune.searching.trainings.training.train_network", lambda options, observer: {})
    monkeypatch.setattr("autoprune.searching.trainings.finetuning.finetune", lambda options, observer: {})
    monkeypatch.setattr("autoprune.searching.delivery.pruning.prune", lambda *arguments, **named: {})
    monkeypatch.setattr("autoprune.searching.inspection.networks.trace_report", lambda *arguments, **named: {})
    monkeypatch.setattr("autoprune.report.screens.live.LiveProgress", _Silent)


class _Silent:
    def __init__(self, **others):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def close(self):
        pass


@given(budgets=st.lists(BUDGETS, min_size=1, max_size=3), front=st.one_of(st.none(), BUDGETS))
def test_budgets(sound, no_work, budgets, front):
    flags = [flag for budget in budgets for flag in ("--budget", budget)]
    sound("search", *flags, *([] if front is None else ["--front", front]))


def _flags(command):
    from typer.main import get_command

    from autoprune.cli.app import app

    parameters = get_command(app).commands[command].params
    return [(flag, bool(item.is_flag)) for item in parameters for flag in getattr(item, "opts", ())
            if flag.startswith("--") and flag != "--help" and hasattr(item, "is_flag")]  # fmt: skip


@given(data=st.data())
@pytest.mark.parametrize("command", ["search", "train", "finetune", "prune", "trace"])
def test_every_option(sound, no_work, command, data):
    flags = data.draw(st.lists(st.sampled_from(_flags(command)), max_size=4))
    arguments = [part for flag, alone in flags for part in ([flag] if alone else [flag, data.draw(VALUES)])]
    extra = data.draw(st.lists(VALUES, max_size=1))
    sound(command, *arguments, *extra)


KEYS = st.sampled_from(
    ["format", "kind", "model", "weights", "data", "budget", "front", "strategy", "candidates", "time_limit", "seed",
     "workers", "backend", "scope", "methods", "budgets", "method_epochs", "finetune_epochs", "search_space", "budgt",
     "description", "min_width", "min_retain", "multiple_of", "frozen", "rule", "match", "out", "device"]
)  # fmt: skip
SCALARS = st.one_of(
    st.sampled_from(["search", "comparison", "50%flops", "digits", "cifar/resnet20-b", "internal", "auto", "serial"]),
    TEXT, st.integers(-3, 1 << 62), st.booleans(), st.floats(allow_nan=True),
)  # fmt: skip
TABLES = st.dictionaries(
    KEYS, st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.lists(st.dictionaries(KEYS, SCALARS), max_size=2)),
    max_size=5,
)  # fmt: skip


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool | float) else json.dumps(value)


FILES = st.one_of(
    TABLES.map(lambda table: "\n".join(f"{key} = {toml(value)}" for key, value in table.items()).encode()),
    st.binary(max_size=60),
    st.sampled_from([b"[" * 5000, b"a = " + b"[" * 5000, b"\xff\xfe", b"format = 2", b"a = " + b"9" * 5000]),
)


@given(content=FILES)
@pytest.mark.parametrize("arguments", [("search", "--experiment", "x.toml"), ("search", "--search-space", "x.toml")])
def test_toml_files(sound, no_work, arguments, content):
    Path("x.toml").write_bytes(content)
    sound(*arguments)


@given(content=FILES)
def test_experiment_files(sound, no_work, monkeypatch, content):
    from autoprune.errors import ConfigError

    def stopped(*arguments, **named):
        raise ConfigError("enough")

    monkeypatch.setattr("autoprune.searching.experiments.runner.run_search", stopped, raising=False)
    monkeypatch.setattr("autoprune.searching.experiments.runner.Contest", stopped)
    Path("x.toml").write_bytes(content)
    sound("experiment", "x.toml")
