"""Invariants: the best stands at the top, nothing leaves its frame, two points are enough."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.report.screens.plot import Point, front_plot


def plotted(points: list[Point], *, resource: str = "macs", width: int = 40, height: int = 6) -> list[str]:
    return [line.plain for line in front_plot(points, resource=resource, width=width, height=height)]


@pytest.mark.parametrize("count", [2, 7, 300])
def test_no_line_is_wider_than_asked_and_every_mark_is_in_the_frame(count: int) -> None:
    rng = np.random.default_rng(count)
    points = [Point(float(cost), float(accuracy), 0) for cost, accuracy in rng.uniform(0.1, 1, (count, 2))]
    lines = plotted([*points, Point(1.5, 1.0, 2)])
    assert len(lines) == 8
    assert max(map(len, lines)) <= 40
    assert lines[0].endswith("◆")
    assert sum(line.count("◆") for line in lines) == 1


def test_the_cheaper_stands_left_and_the_better_above() -> None:
    lines = plotted([Point(10e6, 0.8, 1), Point(20e6, 0.9, 2)])
    assert lines[0].index("◆") > lines[5].index("●")
    assert lines[0].strip().startswith("90.00 %")
    assert lines[-1].split() == ["10.0", "M", "20.0", "M", "MACs"]


@pytest.mark.parametrize(
    ("resource", "costs", "ends"),
    [
        ("params", (1e3, 2e6), "1.00 k 2.00 M parameters"),
        ("latency", (5e6, 7.5e6), "5.00 7.50 ms"),
        ("latency", (0.5e6, 7.5e6), "500 us 7.50 ms"),
    ],
)
def test_the_ends_are_amounts_of_what_the_front_trades(resource: str, costs: tuple[float, float], ends: str) -> None:
    lines = plotted([Point(costs[0], 0.8, 1), Point(costs[1], 0.9, 2)], resource=resource)
    assert " ".join(lines[-1].split()) == ends


def test_candidates_of_one_cost_and_one_accuracy_still_make_a_plot() -> None:
    assert "●" in "".join(plotted([Point(5, 0.5, 1), Point(5, 0.5, 0)]))


def test_one_candidate_makes_no_plot() -> None:
    assert plotted([Point(5, 0.5, 1)]) == []
