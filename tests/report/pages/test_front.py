"""Invariants: one self-contained file; no string of the data is ever read as markup; small for many candidates."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autoprune.core.candidate import Evaluation
from autoprune.report.pages.front import embed, front_data, marks_of, write_front_html
from autoprune.report.records.rows import candidate_rows
from tests.tracking.tracked_candidates import DENSE, GROUPS, evaluation

HOSTILE = "</script><script>alert(1)</script><!-- &quot; \u2028 ' \" @DATA@"
DENSE_WIDTHS = {group.name: group.width for group in GROUPS}


class Reader(HTMLParser):
    """Collects tags and the text of every script, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def page(folder: Path, evaluations: list[Evaluation], **options) -> tuple[str, Reader, dict]:
    path = folder / "front.html"
    given = {"marks": {}, "budget": ["50%flops"], "dense_widths": DENSE_WIDTHS, **options}
    rows = candidate_rows(evaluations, groups=GROUPS, dense=DENSE, front_ids={0})
    write_front_html(path, front_data(rows, **given))
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    return text, reader, json.loads(reader.scripts[0])


def test_the_page_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    text, reader, _ = page(tmp_path, [evaluation(0)])
    assert not [tag for tag, attributes in reader.tags if "src" in attributes]
    assert [attributes.get("href") for tag, attributes in reader.tags if tag == "link"] == ["data:,"]
    assert set(re.findall(r"https?://[^'\" ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text


def test_the_page_speaks_of_the_metric_of_its_task(tmp_path: Path) -> None:
    text, _, data = page(tmp_path, [evaluation(0)], metric="mIoU")
    assert (data["metric"], data["title"]) == ("mIoU", "Hold-out mIoU against cost")
    assert "hold-out accuracy" not in text


def test_the_page_carries_every_candidate_with_its_widths(tmp_path: Path) -> None:
    _, reader, data = page(tmp_path, [evaluation(0, 0.5), evaluation(1, 0.25, widths=(1, 2, 3), by="pca")])
    assert len(reader.scripts) == 2
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]
    assert [row["id"] for row in rows] == [0, 1]
    assert rows[1]["widths"] == [1, 2, 3]
    assert rows[1]["proposed_by"] == "pca"
    assert [row["front"] for row in rows] == [True, False]
    assert data["groups"] == [["conv1", 16], ["layer1.0.conv1", 32], ["odd<name>", 64]]


def test_hostile_names_stay_data(tmp_path: Path) -> None:
    harmless, hostile = tmp_path / "a", tmp_path / "b"
    harmless.mkdir()
    hostile.mkdir()
    _, expected, _ = page(harmless, [evaluation(0)], title="fine", run="runs/x")
    text, reader, data = page(hostile, [evaluation(0, by=HOSTILE)], title=HOSTILE, run=HOSTILE, budget=[HOSTILE])
    assert [tag for tag, _ in reader.tags] == [tag for tag, _ in expected.tags]
    assert data["title"] == HOSTILE
    assert data["rows"][0][data["columns"].index("proposed_by")] == HOSTILE
    assert text.count("alert(1)") == text.count("\\u003cscript\\u003ealert(1)") + 1
    # The one left is the title, where it is escaped.
    assert "<title>&lt;/script&gt;" in text


def test_embedded_data_reads_back_as_it_was_and_holds_no_markup() -> None:
    text = embed({HOSTILE: [HOSTILE]})
    assert json.loads(text) == {HOSTILE: [HOSTILE]}
    assert not re.search(r"[<>&\u2028]", text)


def test_a_run_folder_with_spaces_is_quoted_in_the_command(tmp_path: Path) -> None:
    _, _, data = page(tmp_path, [evaluation(0)], run="my runs/x")
    assert data["run"] == "'my runs/x'"


def test_networks_are_marked_by_their_hold_out_accuracy(tmp_path: Path) -> None:
    summary = {
        "dense": {"accuracy": 0.93, "macs": DENSE.macs, "params": DENSE.params},
        "uniform": {"accuracy": None, "holdout_accuracy": 0.5, "macs": 56_000, "params": 560, "id": 0},
        "incumbent": None,
    }
    _, _, data = page(tmp_path, [evaluation(0)], marks=marks_of(summary))
    dense, uniform = data["marks"]
    assert (dense["accuracy"], dense["source"], dense["retained_flops"]) == (0.93, "test set", 1.0)
    assert (uniform["accuracy"], uniform["source"], uniform["id"], uniform["retained_flops"]) == (0.5, "", 0, 0.5)


@pytest.mark.parametrize(
    ("text", "resource", "low", "high"),
    [("50%flops", "macs", 0.5, 0.5), ("20..80%flops", "macs", 0.2, 0.8), ("560params", "params", 0.5, 0.5)],
)
def test_the_budget_is_drawn_as_a_share_of_dense(
    tmp_path: Path, text: str, resource: str, low: float, high: float
) -> None:
    marks = {"dense": {"accuracy": 0.9, "macs": DENSE.macs, "params": DENSE.params}}
    _, _, data = page(tmp_path, [evaluation(0)], marks=marks, budget=[text, "nonsense"])
    noun, key = {"macs": ("compute", "retained_flops"), "params": ("parameters", "retained_params")}[resource]
    assert data["budgets"] == [{"text": text, "resource": resource, "key": key, "noun": noun, "low": low, "high": high}]


@pytest.mark.parametrize(("resource", "front"), [("macs", "retained_flops"), ("params", "retained_params")])
def test_the_front_is_drawn_over_the_resource_that_is_traded(tmp_path: Path, resource: str, front: str) -> None:
    _, _, data = page(tmp_path, [evaluation(0)], budget=["20..80%params", "50%flops"], resource=resource)
    assert data["front"] == front
    assert front in data["columns"]


def test_a_thousand_candidates_stay_under_a_megabyte(tmp_path: Path) -> None:
    text, _, _ = page(tmp_path, [evaluation(i, i / 1000, by="feature-cluster") for i in range(1000)])
    assert len(text) < 1_000_000


def test_a_search_without_candidates_has_a_page_too(tmp_path: Path) -> None:
    _, _, data = page(tmp_path, [])
    assert data["rows"] == []
