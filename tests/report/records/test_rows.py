"""Invariants: one row a candidate, of its highest rung, whatever the order of evaluations."""

from __future__ import annotations

from autoprune.report.records.rows import candidate_rows, front_rows
from tests.tracking.tracked_candidates import DENSE, GROUPS, evaluation

EVALUATIONS = [
    evaluation(2, 0.3, seconds=1),
    evaluation(0, 0.5, seconds=1),
    evaluation(0, 0.6, level=1, seconds=2),
    evaluation(1, 0.4, widths=(4, 8, 16), by="pca"),
]


def test_a_row_says_what_the_highest_rung_said_and_adds_up_the_seconds() -> None:
    rows = candidate_rows(EVALUATIONS, groups=GROUPS, dense=DENSE, front_ids={0, 1})
    assert [row["id"] for row in rows] == [0, 1, 2]
    first = rows[0]
    assert (first["accuracy"], first["level"], first["fidelity"], first["seconds"]) == (0.6, 1, "sequential", 3)
    assert (first["retained_flops"], first["flops"]) == (0.5, 2 * first["macs"])
    assert first["widths"] == {"conv1": 8, "layer1.0.conv1": 16, "odd<name>": 32}
    assert rows[1]["proposed_by"] == "pca"


def test_the_order_of_evaluations_does_not_matter() -> None:
    options = {"groups": GROUPS, "dense": DENSE, "front_ids": {0}}
    assert candidate_rows(EVALUATIONS[::-1], **options) == candidate_rows(EVALUATIONS, **options)


def test_front_rows_are_the_front_cheapest_first() -> None:
    rows = candidate_rows(EVALUATIONS, groups=GROUPS, dense=DENSE, front_ids={0, 1})
    assert [row["id"] for row in front_rows(rows)] == [1, 0]
