"""Invariants: every width shows what it holds; half-finished summaries and long networks stay readable."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autoprune.report.screens.summary import plain_summary, render_summary

SUMMARY: dict[str, Any] = {
    "model": "cifar/resnet20-b",
    "data": "cifar10",
    "budget": ["50%flops"],
    "scope": "internal",
    "strategy": "auto",
    "seed": 3,
    "dense": {"accuracy": 0.926, "macs": 40_813_184, "flops": 81_626_368, "params": 272_474},
    "uniform": {
        "accuracy": 0.8612,
        "accuracy_before_finetune": 0.8102,
        "holdout_accuracy": 0.83,
        "macs": 20_302_984,
        "flops": 40_605_968,
        "params": 136_000,
        "id": 0,
    },
    "incumbent": {
        "accuracy": 0.8925,
        "accuracy_before_finetune": 0.8725,
        "holdout_accuracy": 0.9,
        "macs": 20_402_984,
        "flops": 40_805_968,
        "params": 171_000,
        "id": 57,
        "proposed_by": "pso",
        "widths": {"layer1.0.conv1": 4, "layer2.0.conv1": 32},
    },
    "groups": [
        {"name": "layer1.0.conv1", "width": 16, "coupled": False},
        {"name": "layer2.0.conv1", "width": 32, "coupled": False},
    ],
    "frozen": {"conv1": "meets a residual stream"},
    "candidates": 100,
    "failures": 2,
    "seconds": 151.2,
    "utilisation": 0.973,
    "workers": 2,
    "hypervolume": 0.4321,
    "notes": ["The hold-out may have been seen."],
}


def rendered(summary: dict[str, Any], *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(render_summary(summary, folder=Path("runs/x")))
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


@pytest.mark.parametrize("text", [rendered(SUMMARY), rendered(SUMMARY, width=80), plain_summary(SUMMARY)])
def test_the_report_compares_dense_uniform_and_incumbent(text: str) -> None:
    for figure in ("92.60 %", "81.02 %", "86.12 %", "87.25 %", "89.25 %", "40.8 M", "81.6 M", "50.0 %", "62.8 %"):
        assert figure in text
    assert "+3.13 points against uniform widths, -3.35 points" in " ".join(text.split())
    assert "4 of 16" in text
    assert "2 failed" in text
    assert "The hold-out may have been seen." in text


def test_no_line_is_wider_than_eighty_columns_where_the_terminal_is_not() -> None:
    lines = rendered(SUMMARY, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)


def test_the_place_of_the_results_is_named() -> None:
    assert "Results: runs/a b" in plain_summary(SUMMARY, folder=Path("runs/a b"))
    assert "Results: runs/y" in plain_summary({**SUMMARY, "folder": "runs/y"})


def test_plain_text_is_ascii_without_escape_sequences() -> None:
    assert plain_summary(SUMMARY, folder=Path("runs/x")).isascii()
    assert "\x1b" not in plain_summary(SUMMARY)


def test_an_interrupted_search_shows_hold_out_accuracies_and_says_so() -> None:
    summary = copy.deepcopy(SUMMARY) | {"interrupted": True}
    for name in ("dense", "uniform", "incumbent"):
        summary[name] = summary[name] | {"accuracy": None, "accuracy_before_finetune": None}
    text = plain_summary(summary)
    assert "interrupted" in text
    assert "hold-out" in text
    assert "90.00 %" in text
    assert "The test set has not been touched yet" in text


def test_a_summary_with_next_to_nothing_in_it_still_renders() -> None:
    assert "budget" in plain_summary({"interrupted": True, "incumbent": None, "groups": []})
    assert rendered({})


def test_a_long_network_takes_a_line_a_stage() -> None:
    names = [f"layer{1 + i // 60}.{i}.conv1" for i in range(180)]
    summary = copy.deepcopy(SUMMARY)
    summary["groups"] = [{"name": name, "width": 64, "coupled": False} for name in names]
    summary["incumbent"]["widths"] = dict.fromkeys(names, 16)
    text = rendered(summary)
    assert len(text.splitlines()) < 40
    assert "16 to 16 of 64, 25 %" in text
    assert "layer3.179.conv1" in plain_summary(summary)


def test_the_bar_is_full_for_a_whole_group_and_never_empty() -> None:
    summary = copy.deepcopy(SUMMARY)
    summary["incumbent"]["widths"] = {"layer1.0.conv1": 1, "layer2.0.conv1": 32}
    lines = [line for line in plain_summary(summary).splitlines() if "conv1  " in line]
    assert "#." in lines[0]
    assert "." not in lines[1].split()[1]


def test_a_hostile_model_name_does_not_reach_the_terminal_raw() -> None:
    assert "\x1b" not in rendered({**SUMMARY, "model": "x\x1b[2Jy"})
