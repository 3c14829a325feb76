"""Invariants: a record trusts the summary where it speaks, and no ledger that is not of its network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoprune.errors import RunError
from autoprune.report.records.run import evaluations_of, rows_of
from tests.report.recorded_run import pruning, search


@pytest.mark.parametrize(
    ("changes", "resource"),
    [
        ({"front_resource": "params"}, "params"),
        ({"front_resource": "params", "budget": ["a budget of another version"]}, "params"),
        ({"front_resource": "macs", "budget": ["20..80%params"]}, "macs"),
        ({"budget": ["20..80%params"]}, "params"),
        ({"budget": ["50%params"]}, "macs"),
        ({"front_resource": "latency"}, "macs"),
        ({"front_resource": None}, "macs"),
    ],
)
def test_the_summary_says_what_the_front_trades_and_the_budgets_where_it_does_not(changes, resource) -> None:
    assert search(**changes).front_resource == resource


def test_only_what_lies_within_the_budget_is_legal_and_on_the_front() -> None:
    record = search(budget=["46%flops"])
    evaluations = evaluations_of(record)
    assert {one.candidate.id for one in evaluations if one.candidate.legal} == {2}
    assert [row["id"] for row in rows_of(record, evaluations) if row["front"]] == [2]


def test_a_pruning_has_no_evaluations() -> None:
    assert evaluations_of(pruning()) == []


@pytest.mark.parametrize("widths", [[4], [9, 8], [4, 8, 1]])
def test_a_ledger_of_other_widths_is_refused_with_its_line(widths) -> None:
    record = search()
    events = (record.events[0], {**record.events[1], "widths": widths}, *record.events[2:])
    with pytest.raises(RunError, match="Line 2 of the ledger does not fit this search"):
        evaluations_of(replace(record, events=events))
