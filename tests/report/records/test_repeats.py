"""Invariants: the range over seeds holds the figure of every seed; only runs that differ in nothing else are pooled."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from autoprune.errors import ConfigError
from autoprune.report.pages.comparison import comparison_page
from autoprune.report.pages.run import drawings, report_page
from autoprune.report.records.repeats import over_seeds, require_repeats, seed_lines, with_ranges
from autoprune.report.records.run import evaluations_of, rows_of
from tests.report.recorded_run import entry, search, shown


def seeded(seed, *, up=0.0, folder=None, **changes):
    """Returns a search whose accuracies, all of them, are by `up` higher."""
    told = {name: entry(number, accuracy=0.7 + up, holdout_accuracy=0.6 + up) for number, name in enumerate(NETWORKS)}
    record = search(seed=seed, **{**told, **changes})
    events = tuple(
        {**event, "accuracy": event["accuracy"] + up} if "score" in event else event for event in record.events
    )
    return replace(record, folder=folder or f"runs/seed-{seed}", events=events)


NETWORKS = ("uniform", "incumbent")
THREE = (seeded(0), seeded(1, up=0.04), seeded(2, up=0.02))


def numbers_and_rows(record):
    return shown(record)[:2]


def test_runs_that_differ_in_the_seed_alone_are_pooled():
    [group] = over_seeds([numbers_and_rows(record)[0] for record in THREE])
    assert group["seeds"] == [0, 1, 2]
    dense, uniform, incumbent = group["networks"]
    assert dense["accuracy"] == {"mean": 0.9, "low": 0.9, "high": 0.9}
    assert dense["holdout_accuracy"] is None
    for network in (uniform, incumbent):
        assert network["accuracy"] == pytest.approx({"mean": 0.72, "low": 0.7, "high": 0.74})
        assert network["holdout_accuracy"] == pytest.approx({"mean": 0.62, "low": 0.6, "high": 0.64})
    assert seed_lines(group)[2][:6] == ["incumbent", "3", "72.00 %", "70.00 to 74.00", "62.00 %", "60.00 to 64.00"]


@pytest.mark.parametrize("change", [{"budget": ["40%flops"]}, {"strategy": "random"}, {"model": "another"}])
def test_runs_that_differ_in_more_are_not(change):
    runs = [numbers_and_rows(record)[0] for record in (seeded(0), seeded(1, **change))]
    assert over_seeds(runs) == []
    with pytest.raises(ConfigError, match=f"is no repeat of 'runs/seed-0': {next(iter(change))} is"):
        require_repeats(runs[0], runs[1:])


def test_a_budget_may_be_spelt_in_another_way():
    runs = [
        numbers_and_rows(record)[0]
        for record in (seeded(0, budget=["50%flops", "1Mparams"]), seeded(1, budget=["1000 Kparams", "50 % FLOPs"]))
    ]
    require_repeats(runs[0], runs[1:])
    [group] = over_seeds(runs)
    assert group["seeds"] == [0, 1]


def test_the_same_seed_twice_repeats_nothing():
    runs = [numbers_and_rows(record)[0] for record in (seeded(0), seeded(0))]
    assert over_seeds(runs) == []
    with pytest.raises(ConfigError, match="has the seed 0 of another run"):
        require_repeats(runs[0], runs[1:])


def test_a_row_says_what_the_other_seeds_measured_of_its_structure_on_its_rung():
    first, *others = (numbers_and_rows(record)[1] for record in THREE)
    others[1] = [{**row, "level": 9} for row in others[1]]
    for row, before in zip(with_ranges(first, others), first, strict=True):
        assert (row["times"], row["low"]) == (2, before["accuracy"])
        assert row["high"] == pytest.approx(before["accuracy"] + 0.04)
        assert {key: row[key] for key in before} == before
    assert with_ranges(first, []) == first


def embedded(page):
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    return data, [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]


def test_the_front_of_a_report_with_repeats_has_error_bars():
    record = replace(THREE[0], repeats=THREE[1:])
    numbers, rows = numbers_and_rows(THREE[0])
    others = [numbers_and_rows(repeat) for repeat in record.repeats]
    numbers = {**numbers, "over_seeds": over_seeds([numbers, *(more for more, _ in others)])}
    rows = with_ranges(rows, [more for _, more in others])
    page = report_page(record, numbers, rows)
    data, candidates = embedded(page)
    assert all(one["high"] - one["low"] == pytest.approx(0.04) for one in candidates)
    marks = {mark["name"]: mark for mark in data["marks"]}
    assert (marks["incumbent"]["low"], marks["incumbent"]["high"]) == pytest.approx((0.6, 0.64))
    assert "low" not in marks["dense"]
    assert "<h2>Over seeds</h2>" in page
    plain = drawings(THREE[0], *numbers_and_rows(THREE[0]))["front.svg"].file()
    assert drawings(record, numbers, rows)["front.svg"].file().count("<line") == plain.count("<line") + 3 * len(rows)


def test_a_single_search_has_no_error_bars():
    page = shown(THREE[0])[2]
    data, _ = embedded(page)
    assert "times" not in data["columns"]
    assert "Over seeds" not in page


def test_a_comparison_pools_seeds_and_draws_what_they_measured_of_one_structure():
    other = seeded(3, strategy="random")
    page = comparison_page([numbers_and_rows(record) for record in (*THREE, other)])
    assert page.count("<h2>Over seeds</h2>") == 1
    assert "runs/seed-2 (seed 2)" in page
    assert "runs/seed-3 (seed 3)" not in page
    assert "Bars: the same structure" in page
    assert "Bars: the same structure" not in comparison_page([numbers_and_rows(record) for record in (THREE[0], other)])


def test_rows_of_the_record_are_what_is_compared():
    record = THREE[1]
    assert rows_of(record, evaluations_of(record))[0]["accuracy"] == pytest.approx(0.74)
