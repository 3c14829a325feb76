"""Invariants: the view filters on its own search, is valid JSON within JSON and fits into a tag."""

from __future__ import annotations

import json

import pytest

from autoprune.tracking.view import is_tried, view_id, view_tag


def state_of(ratios: list[str], metric: str = "accuracy", cost: str = "retained_flops") -> dict:
    tag = view_tag("0123456789abcdef", name="a search", ratios=ratios, metric=metric, cost=cost, now=5)
    assert tag is not None
    key, value = tag
    assert key == f"mlflow.sharedViewState.{view_id('0123456789abcdef')}"
    return json.loads(json.loads(value)["state"])


@pytest.mark.parametrize("count", [1, 9, 54, 120])
def test_the_view_shows_the_children_of_its_search_and_at_most_thirty_axes(count: int) -> None:
    names = [f"ratio.layer{i}" for i in range(count)]
    state = state_of(names)
    assert "'0123456789abcdef'" in state["searchFilter"]
    axes = state["compareRunCharts"][2]["selectedParams"]
    assert len(axes) == min(count, 30)
    assert axes[0] == names[0]
    assert axes[-1] == names[-1]


def test_the_charts_speak_of_the_metric_of_the_task() -> None:
    state = state_of(["ratio.a"], metric="mAP@0.5")
    assert state["compareRunSections"][0]["name"] == "Hold-out mAP@0.5 against cost"


@pytest.mark.parametrize(
    ("cost", "charts"),
    [
        ("retained_flops", ["retained_flops", "retained_params"]),
        ("retained_params", ["retained_params", "retained_flops"]),
        ("retained_latency", ["retained_latency", "retained_flops", "retained_params"]),
    ],
)
def test_what_the_front_trades_is_charted_first_and_nothing_twice(cost: str, charts: list[str]) -> None:
    state = state_of(["ratio.a"], cost=cost)
    *scatters, parallel = state["compareRunCharts"]
    assert [one["xaxis"]["key"] for one in scatters] == charts
    assert parallel["selectedMetrics"] == [cost, "accuracy"]
    assert [f"metrics.`{one}`" for one in charts] == state["selectedColumns"][1 : 1 + len(charts)]


def test_a_view_too_long_for_a_tag_is_left_out() -> None:
    ratios = [f"{i}{'x' * 1000}" for i in range(30)]
    assert view_tag("0" * 32, name="s", ratios=ratios, metric="mIoU", cost="retained_flops", now=0) is None


@pytest.mark.parametrize(("version", "tried"), [("3.17.2", True), ("3.17.0rc1", True), ("3.9", False), ("4", False)])
def test_only_tried_versions_get_the_view(version: str, tried: bool) -> None:
    assert is_tried(version) is tried


@pytest.mark.parametrize("version", ["", "x.y", "3.x"])
def test_a_version_that_cannot_be_read_is_not_tried(version: str) -> None:
    assert not is_tried(version)
