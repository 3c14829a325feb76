"""Invariants: one self-contained page, whatever the run; nothing that a run says is read as markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from autoprune.report.pages.comparison import comparison, comparison_lines, comparison_page, short_names
from tests.report.recorded_run import entry, pruning, search, shown, training

HOSTILE = "<script>alert(1)</script>\"'&@DATA@@BODY@\x1b[31m\ud800"
LAYERS = [
    {"name": "stem", "dense": 600, "uniform": 300, "pruned": 350},
    {"name": "block.conv", "dense": 400, "uniform": 180, "pruned": 140},
]
LATENCY = {
    "rows": [
        {"device": "cpu", "batch": 1, "repeats": 31, "dense": 0.002, "pruned": 0.001, "speedup": 2.0, "steady": True}
    ],
    "threads": 2,
    "repeats": 31,
    "warm_up": 5,
    "machine": "a machine",
    "torch": "2.11.0",
    "input_shape": [3, 8, 8],
}


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts, self.scripts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        inside = self.tags[-1][0] if self.tags else ""
        if inside == "script":
            self.scripts[-1] += data
        self.texts.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def headings(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_the_page_loads_nothing_from_anywhere():
    page = shown(search(layers=LAYERS, latency=LATENCY))[2]
    reader = read(page)
    assert not [tag for tag, attributes in reader.tags if "src" in attributes]
    assert [attributes.get("href") for tag, attributes in reader.tags if tag == "link"] == ["data:,"]
    assert set(re.findall(r"https?://[^'\" ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page


def test_a_search_has_every_section():
    page = shown(search(layers=LAYERS, latency=LATENCY))[2]
    assert headings(page) == [
        "The result",
        "Accuracy against cost",
        "Progress of the search",
        "What was kept of each layer",
        "Where the FLOPs went",
        "Who found what",
        "How well the cheap estimate foretold the dear one",
        "Measured latency",
        "How it was made",
    ]
    assert "autoprune search --budget 50%flops" in page
    assert "seed 7" in page


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (pruning(), ["The result", "What was kept of each layer", "How it was made"]),
        (training(), ["The result", "Progress of the training", "What was kept of each layer", "How it was made"]),
    ],
)
def test_a_run_without_candidates_has_what_there_is(record, expected):
    numbers, _, page = shown(record)
    assert headings(page) == expected
    assert numbers["agreement"] is None
    assert numbers["progress"] == []


def test_a_page_speaks_of_the_metric_of_its_task():
    record = search()
    record.summary["metric"] = "mAP@0.5"
    numbers, _, page = shown(record)
    assert numbers["metric"] == "mAP@0.5"
    assert "mAP@0.5 against cost" in headings(page)
    assert "<th>test mAP@0.5</th>" in page
    assert "% mAP@0.5 on the test set" in page
    assert "test accuracy" not in page
    assert "hold-out accuracy" not in page.casefold()


def test_hostile_names_stay_texts():
    groups = [{"name": HOSTILE, "width": 8, "coupled": False}, {"name": "other", "width": 16, "coupled": False}]
    incumbent = entry(1, widths={HOSTILE: 6, "other": 6}, proposed_by=HOSTILE)
    changes = {
        "model": HOSTILE,
        "data": HOSTILE,
        "strategy": HOSTILE,
        "command": HOSTILE,
        "budget": ["50%flops", HOSTILE],
        "versions": {HOSTILE: HOSTILE},
        "notes": [HOSTILE],
        "groups": groups,
        "incumbent": incumbent,
    }
    layers = [{**LAYERS[0], "name": HOSTILE}]
    latency = {**LATENCY, "machine": HOSTILE}
    page = shown(search(by=HOSTILE, layers=layers, latency=latency, **changes))[2]
    harmless = dict.fromkeys(("model", "data", "strategy", "command"), "fine")
    plain = shown(
        search(
            by="fine",
            layers=[{**LAYERS[0], "name": "fine"}],
            latency={**LATENCY, "machine": "fine"},
            **{**changes, **harmless, "budget": ["50%flops", "x"], "versions": {"a": "b"}, "notes": ["c"]},
        )
    )[2]
    assert [tag for tag, _ in read(page).tags] == [tag for tag, _ in read(plain).tags]
    assert len(read(page).scripts) == 2
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert json.loads(read(page).scripts[0])["columns"]
    page.encode("utf-8")  # a lone surrogate has become something that a file can hold


def test_the_numbers_are_those_of_the_ledger():
    numbers, rows, _ = shown(search())
    assert [row["id"] for row in rows] == [0, 1, 2, 3]
    assert numbers["front"] == [1, 3]
    assert [step["candidates"] for step in numbers["progress"]] == [1, 2, 3, 4]
    assert [step["score"] for step in numbers["progress"]] == [0.7, 0.8, 0.8, 0.8]
    assert numbers["gains"] == pytest.approx({"dense": -0.1, "uniform": 0.1, "before": None})
    assert numbers["agreement"]["tau"] == 1.0
    assert numbers["agreement"]["pairs"] == 3
    json.dumps(numbers, allow_nan=False)


def test_each_strategy_is_credited_with_its_own():
    numbers, _, _ = shown(search())
    found = {one["name"]: one for one in numbers["strategies"]}
    assert {name: one["proposed"] for name, one in found.items()} == {"uniform": 1, "pca": 3, "sensitivity": 1}
    assert (found["pca"]["failed"], found["pca"]["finished"], found["pca"]["best_id"]) == (1, 1, 1)
    assert sum(one["front_share"] for one in found.values()) == pytest.approx(1.0)
    assert found["uniform"]["front"] == 0


def test_a_candidate_over_the_budget_is_neither_incumbent_nor_on_the_front():
    numbers, _, _ = shown(search(budget=["48%flops"]))
    assert numbers["front"] == [3]
    assert {step["incumbent"] for step in numbers["progress"]} == {0, 3}


def test_an_interrupted_search_says_that_nothing_was_tested():
    dense = {"accuracy": None, "macs": 1000, "flops": 2000, "params": 1000}
    untested = {"uniform": entry(0, accuracy=None), "incumbent": entry(1, accuracy=None)}
    page = shown(search(interrupted=True, dense=dense, **untested))[2]
    assert "has not ended yet" in page
    assert "Nothing has been tested" in page


def test_a_busy_machine_is_owned_up_to():
    busy = {**LATENCY, "rows": [{**LATENCY["rows"][0], "steady": False}]}
    assert "the machine was busy" in shown(search(latency=busy))[2]
    assert "the machine was busy" not in shown(search(latency=LATENCY))[2]


def test_a_comparison_has_a_row_a_run_of_whatever_kind():
    runs = [shown(record)[:2] for record in (search(), pruning(), training())]
    found = comparison([numbers for numbers, _ in runs])
    assert [row["run"] for row in found] == ["some", "pruned", "tuned"]
    assert [row["result"] for row in found] == pytest.approx([0.8, 0.8, 0.61])
    assert [row["uniform"] for row in found] == [0.7, None, None]
    assert {len(line) for line in comparison_lines(found)} == {12}
    page = comparison_page(runs)
    assert headings(page) == ["The results", "Accuracy against cost", "Progress of the searches", "Commands"]
    assert page.count("<tr") == 4


def test_a_comparison_speaks_of_the_metric_that_its_runs_share():
    alike = [shown(search(metric="mIoU"))[:2], shown(search(metric="mIoU"))[:2]]
    page = comparison_page(alike)
    assert "mIoU against cost" in headings(page)
    assert "hold-out mIoU" in page
    assert "ccurac" not in page
    assert "Accuracy against cost" in headings(comparison_page([alike[0], shown(search())[:2]]))


def test_a_comparison_of_hostile_runs_stays_text():
    runs = [shown(search(model=HOSTILE, command=HOSTILE))[:2], shown(search(by=HOSTILE))[:2]]
    reader = read(comparison_page(runs))
    assert reader.scripts == []


def test_runs_of_different_networks_are_not_ranked():
    alike = [shown(search())[:2], shown(search())[:2]]
    other = [shown(search())[:2], shown(search(model="another"))[:2]]
    assert "class=result" in comparison_page(alike)
    assert "class=result" not in comparison_page(other)
    assert "do not compare" in comparison_page(other)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/run", "y/run"], ["x/run", "y/run"]),
        (["runs/a", "runs/a"], ["a", "a (2)"]),
        (["/", "."], ["/", "."]),
    ],
)
def test_runs_are_named_by_the_shortest_ends_of_their_paths(folders, names):
    assert short_names(folders) == names
