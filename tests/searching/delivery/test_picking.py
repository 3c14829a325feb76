import csv

import pytest

from autoprune.errors import BudgetError, ConfigError
from autoprune.models.costing.counting import count
from autoprune.searching.delivery.picking import Choice


def test_an_id_excludes_every_other_wish():
    with pytest.raises(ConfigError, match="leave --budget and --min-accuracy out"):
        Choice(id=3, budget="40%flops")


@pytest.mark.parametrize("share", [-0.1, 92.0, float("nan")])
def test_a_smallest_accuracy_is_a_share(share):
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\]"):
        Choice(min_accuracy=share)


def test_a_range_is_no_limit_to_pick_within():
    with pytest.raises(BudgetError, match=r"is a range\. Write one limit, for example '40%flops'"):
        Choice(budget="20..40%flops")


def test_a_candidate_that_was_not_evaluated_is_named():
    with pytest.raises(ConfigError, match=r"Candidate 7 was not evaluated\. None was: continue the search"):
        Choice(id=7).of([], None)


def test_a_candidate_that_nobody_asked_for_is_refused_before_the_network_is_read(searched, monkeypatch):
    monkeypatch.setattr("autoprune.searching.delivery.picking.load_problem", lambda *_: pytest.fail("read the network"))
    with pytest.raises(ConfigError, match=r"Candidate 999 was not evaluated\. The candidates are 0 to \d\."):
        picked(searched, id=999)


def test_nothing_that_fits_is_one_clear_line():
    with pytest.raises(ConfigError, match="none was evaluated"):
        Choice(min_accuracy=0.9).of([], None)


@pytest.fixture
def searched(toy):
    return toy(candidates=8).out


def picked(run, **choice):
    from autoprune.report.observer import NullObserver
    from autoprune.searching.delivery.picking import pick

    return pick(run, Choice(**choice), observer=NullObserver())


def test_a_picked_candidate_is_saved_with_the_widths_that_were_evaluated(searched, events):
    from autoprune.models.storage.saved import load

    asked = {event["id"]: event["widths"] for event in events(searched) if event["event"] == "asked"}
    entry = picked(searched, id=3)
    assert list(entry["widths"].values()) == asked[3]
    assert load(searched / "picked-3").block1.conv1.out_channels == entry["widths"]["block1.conv1"]
    assert 0 <= entry["accuracy"] <= 1


def test_the_best_within_a_budget_is_within_it(searched):
    from autoprune.models.storage.saved import load

    entry = picked(searched, budget="50%flops", min_accuracy=None)
    evaluated = [picked(searched, id=number) for number in range(3)]
    assert entry["holdout_accuracy"] >= max(item["holdout_accuracy"] for item in evaluated) - 1e-9
    assert count(load(searched / f"picked-{entry['id']}"), (1, 1, 8, 8)).macs == entry["macs"]


def test_a_demand_that_no_candidate_meets_is_one_clear_line(searched):
    with pytest.raises(ConfigError, match=r"the cheapest keeps .* of the FLOPs"):
        picked(searched, budget="1%flops")


def test_what_is_said_of_a_demand_that_no_candidate_meets_contradicts_no_part_of_it(searched):
    with pytest.raises(ConfigError, match=r"candidate is within 1%flops: .* Allow more"):
        picked(searched, budget="1%flops", min_accuracy=0.0)
    with pytest.raises(ConfigError, match=r"within 90%flops has .* of 1: the best is 0\.\d+\. Ask for less") as both:
        picked(searched, budget="90%flops", min_accuracy=1.0)
    assert "cheapest" not in str(both.value)


def test_a_budget_of_bytes_picks_what_holds_it(searched):
    with (searched / "front.csv").open() as table:
        limit = min(int(row["weights"]) for row in csv.DictReader(table))
    assert picked(searched, budget=f"{limit}B")["weights"] <= limit
    with pytest.raises(ConfigError, match=r"the cheapest keeps .* of the weights \(.* KB\)"):
        picked(searched, budget="0.1KB")
