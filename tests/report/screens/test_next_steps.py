"""Invariants: every step that is printed can be typed as it stands; nothing is promised that would not work."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from autoprune.report.screens.next_steps import after_pick, after_prune, after_search, step_lines

SUMMARY: dict[str, Any] = {"incumbent": {"id": 23}, "tracking": {"uri": "sqlite:///x.db"}, "interrupted": False}
ENTRY: dict[str, Any] = {
    "run": "my runs/a",
    "id": 17,
    "directory": "my runs/a/picked-17",
    "request": "my runs/a/r.json",
}


def commands(steps: list[tuple[str, str]]) -> list[str]:
    return [command for command, _ in steps]


def test_a_tracked_search_leads_to_its_report_its_charts_and_a_registered_network() -> None:
    shown = "\n".join(commands(after_search(SUMMARY, Path("runs/a"))))
    for step in ("autoprune report runs/a", "autoprune ui runs/a", "autoprune pick runs/a --id 23 --register NAME"):
        assert step in shown


def test_nothing_is_named_that_would_not_work() -> None:
    untracked = "\n".join(commands(after_search({**SUMMARY, "tracking": None}, Path("runs/a"))))
    assert "autoprune ui" not in untracked
    assert "--register" not in untracked
    stopped = "\n".join(commands(after_search({**SUMMARY, "interrupted": True}, Path("runs/a"))))
    assert "autoprune.load" not in stopped
    empty = "\n".join(commands(after_search({"tracking": None}, Path("runs/a"))))
    assert "pick" not in empty
    assert not any("mlflow" in command for command in commands(after_pick({**ENTRY, "mlflow": None})))


def test_paths_with_spaces_are_quoted() -> None:
    logged = {"uri": "sqlite:///my store.db", "model_uri": "models:/toy@champion", "name": "toy", "version": "1"}
    for command in (
        commands(after_search(SUMMARY, Path("my runs/a")))[:3] + commands(after_prune(Path("my runs/a")))[:3]
    ):
        assert "my runs/a" in shlex.split(command)
    steps = commands(after_pick({**ENTRY, "mlflow": logged}))
    export = next(step for step in steps if step.startswith("export"))
    assert shlex.split(export)[1] == "MLFLOW_TRACKING_URI=sqlite:///my store.db"
    assert "@my runs/a/r.json" in shlex.split(steps[-1])


def test_what_is_typed_stays_on_one_line_however_long_it_is() -> None:
    long = "autoprune " + "x" * 200
    assert step_lines([(long, "purpose"), ("short", "other")])[1] == f"  {long}"
    assert step_lines([]) == []


def test_charts_on_a_server_are_named_by_their_address() -> None:
    tracking = {"uri": "https://***@host:8/x", "experiment_id": "3", "run_id": "abc", "view_id": "v"}
    shown = commands(after_search({**SUMMARY, "tracking": tracking}, Path("runs/a")))
    assert "https://host:8/x/#/experiments/3/runs?viewStateShareKey=v&compareRunsMode=CHART" in shown
    assert not any(command.startswith("autoprune ui") for command in shown)
