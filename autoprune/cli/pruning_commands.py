"""What `autoprune prune` and `autoprune experiment` do: check, import what is heavy, call, show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.cli.answers import answer
from autoprune.cli.work import driven, shown
from autoprune.errors import ConfigError


def prune(
    given: Mapping[str, Any], *, chosen: Mapping[str, Any], settings: Sequence[str], list_methods: bool, as_json: bool
) -> int:
    """Prunes by one method, shows the result and returns the exit code."""
    if list_methods:
        return _list_methods(as_json=as_json)
    from autoprune.config.options import check_options
    from autoprune.strategies import strategy_names

    named = _settings(settings)
    epochs = chosen.get("epochs", 1.0)
    if not 0 <= epochs < float("inf"):
        raise ConfigError(f"--epochs is {epochs:g}, but must be a finite number of at least 0.")
    options = check_options(given, strategies=strategy_names())
    from autoprune.cli.render import show_prune
    from autoprune.searching.delivery.pruning import MethodOptions, prune
    from autoprune.searching.inputs.options import SearchOptions

    method = MethodOptions(**chosen, settings=named)
    summary = driven(lambda observer: prune(SearchOptions(**options), method, observer, budgeted="budgets" in given))
    return shown(summary, show_prune, as_json=as_json)


def _list_methods(*, as_json: bool) -> int:
    from autoprune.methods.registry import described_methods

    return shown(described_methods(), _show_methods, as_json=as_json)


def _show_methods(found: Sequence[Mapping[str, Any]]) -> None:
    from autoprune.cli.render import show_table

    rows = [
        (item["name"], "yes" if item["trains"] else "", item["source"], " ".join(item["options"])) for item in found
    ]
    show_table("methods", ("name", "trains", "source", "options"), rows)


def _settings(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ConfigError(f"Cannot read --option {text!r}. Write KEY=VALUE, for example beta=0.73.")
        found[key.strip()] = value.strip()
    return found


def experiment(
    file: str | None, *, seeds: Sequence[int], results: Path | None, table: Path | None, as_json: bool
) -> int:
    """Runs an experiment file and writes its results file, or prints the table of kept results."""
    if (file is None) == (table is None):
        raise ConfigError("Name an experiment file to run, or a folder of results with --table.")
    if table is not None:
        from autoprune.report.markdown.results import results_table

        answer(results_table(table))
        return 0
    assert file is not None
    from autoprune.cli.quiet import hush_libraries
    from autoprune.config.options import OPTIONS
    from autoprune.report.screens.live import LiveProgress
    from autoprune.searching.experiments.runner import run_experiment

    hush_libraries()

    def display(candidates: int) -> LiveProgress:
        return LiveProgress(candidates=candidates)

    checked = [OPTIONS["seed"].read(seed, "--seed") for seed in dict.fromkeys(seeds)]
    path = run_experiment(file, seeds=checked or None, results=results, display=display)
    if as_json:
        answer(path.read_text(encoding="utf-8"))
    else:
        print(f"The results are in {path}.")
    return 0
