"""Invariants: every picture is well-formed XML, stands alone as a file, and stays within its frame."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from autoprune.report.pages.run import drawings
from autoprune.report.pictures import figures
from autoprune.report.pictures.front import front_figure
from autoprune.report.pictures.svg import Axes, Drawing, ticks
from autoprune.report.records.progress import agreement_of, kendall_tau
from autoprune.report.records.run import evaluations_of
from tests.report.recorded_run import pruning, search, shown, training

WIDTHS = [figures.WIDE, figures.NARROW]


def parsed(drawing):
    return ElementTree.fromstring(drawing.file())


def pictures(record):
    numbers, rows, _ = shown(record)
    return drawings(record, numbers, rows)


def test_every_run_has_the_pictures_of_what_it_holds():
    layers = [{"name": "stem", "dense": 600, "uniform": 300, "pruned": 350}]
    assert sorted(pictures(search(layers=layers))) == [
        "front.svg",
        "layers.svg",
        "progress.svg",
        "rungs.svg",
        "widths.svg",
    ]
    assert sorted(pictures(pruning())) == ["widths.svg"]
    assert sorted(pictures(training())) == ["progress.svg", "widths.svg"]


def test_a_file_needs_no_style_sheet_and_no_script():
    for picture in pictures(search()).values():
        text = picture.file()
        assert "var(" not in text
        assert {node.tag.rpartition("}")[2] for node in parsed(picture).iter()} <= {
            "svg",
            "style",
            "rect",
            "line",
            "text",
            "circle",
            "path",
        }


def test_pictures_stay_within_their_frames():
    for picture in pictures(search()).values():
        root = parsed(picture)
        width, height = float(root.get("width")), float(root.get("height"))
        for node in root.iter():
            for name, limit in (("cx", width), ("cy", height), ("x1", width), ("x2", width), ("y1", height)):
                if node.get(name) is not None:
                    assert -1 <= float(node.get(name)) <= limit + 1
            for path in [node.get("d")] if node.get("d") else []:
                assert all(-1 <= float(number) <= max(width, height) for number in re.findall(r"[\d.]+", path))


@pytest.mark.parametrize("width", WIDTHS)
def test_odd_names_are_escaped_in_texts_and_attributes(width):
    name = '<b onload="x">&\'\x00\ud800'
    rows = shown(search(by=name))[1]
    drawn = [
        front_figure(rows, (), (), width=width),
        figures.widths_figure({name: 8}, {name: 4}, {}, width=width),
        figures.layers_figure([{"name": name, "dense": 9, "pruned": 4}], width=width),
    ]
    for drawing in drawn:
        assert "b" not in {node.tag.rpartition("}")[2] for node in parsed(drawing).iter()}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_single_candidate_and_equal_scores_have_a_picture(width):
    numbers, rows, _ = shown(search())
    parsed(front_figure(rows[:1], (), (), width=width))
    parsed(figures.progress_figure(numbers["progress"][:1], [(1, 0.7)], width=width))
    equal = {"first": "a", "last": "b", "candidates": [[0, 0.5, 0.5], [1, 0.5, 0.5]]}
    parsed(figures.rungs_figure(equal, incumbent=1, width=width))
    parsed(figures.training_figure([{"epoch": 1, "holdout_accuracy": 0.5, "train_loss": 0.0}], width=width))


def test_the_front_marks_dense_uniform_and_incumbent():
    record = search()
    text = pictures(record)["front.svg"].file()
    assert "dense 90.00 % (test set)" in text
    assert "incumbent 80.00 %" in text
    assert "uniform 70.00 %" in text
    assert "budget 50%flops" in text


def test_the_line_of_a_front_never_falls_to_a_candidate_that_a_cheaper_one_surpasses():
    drawing = Drawing(100, 100, "a front by score")
    Axes(drawing, (0, 0, 100, 100), (0, 1), (0, 1)).front([(0.2, 0.6), (0.4, 0.5), (0.6, 0.9)], "front")
    (path,) = (node.get("d") for node in parsed(drawing).iter() if node.tag.endswith("path"))
    heights = [float(value) for value in re.findall(r"(?:V|M[\d.]+ )([\d.]+)", path)]
    assert heights == [40.0, 10.0]
    assert len(re.findall("H", path)) == 2


def test_long_networks_are_drawn_by_block_and_lose_nothing():
    layers = [
        {"name": f"layer{stage}.{block}.conv{i}", "dense": 10, "pruned": 4}
        for stage, block, i in itertools.product(range(4), range(10), range(3))
    ]
    merged = figures.merged_layers(layers)
    assert len(merged) == 40
    assert sum(layer["dense"] for layer in merged) == 1200
    assert figures.merged_layers(layers[:5]) == layers[:5]


@pytest.mark.parametrize("limits", [(0, 1), (0.497, 0.503), (0.9, 0.90001), (0, 1000.5), (-0.02, 1.02)])
def test_ticks_are_few_round_and_within(limits):
    found, digits = ticks(limits, 6)
    assert 2 <= len(found) <= 12
    assert all(limits[0] - 1e-9 <= value <= limits[1] + 1e-9 for value in found)
    assert 0 <= digits <= 4


def test_kendalls_tau_counts_pairs_as_brute_force_does():
    generator = np.random.default_rng(0)
    for _ in range(20):
        scores = [(float(a), float(b)) for a, b in generator.integers(0, 4, size=(7, 2))]
        agree = differ = first = last = 0
        for (a, b), (c, d) in itertools.combinations(scores, 2):
            sign = (a > c) - (a < c), (b > d) - (b < d)
            agree += sign[0] * sign[1] > 0
            differ += sign[0] * sign[1] < 0
            first += sign[0] == 0 and sign[1] != 0
            last += sign[1] == 0 and sign[0] != 0
        scale = math.sqrt((agree + differ + first) * (agree + differ + last))
        assert kendall_tau(scores) == (pytest.approx((agree - differ) / scale) if scale else None)


def test_kendalls_tau_of_nothing_or_ties_alone_is_not_defined():
    assert kendall_tau([]) is None
    assert kendall_tau([(0.5, 0.5)]) is None
    assert kendall_tau([(0.5, 0.1), (0.5, 0.2)]) is None


def test_one_rung_alone_agrees_with_nothing():
    first = [item for item in evaluations_of(search()) if item.candidate.fidelity.level == 0]
    assert agreement_of(first) is None


def test_numbers_in_attributes_are_short():
    drawing = Drawing(10, 10, "t")
    drawing.add("circle", cx=1 / 3, cy=2.0, stroke_width=1)
    assert '<circle cx="0.33" cy="2" stroke-width="1"/>' in drawing.element()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("share", [0.5, 0.45])
def test_the_name_of_the_dense_network_crosses_no_budget_line(width, share):
    row = {"id": 0, "retained_flops": 0.45, "accuracy": 0.9, "proposed_by": "pso", "front": True, "macs": 1, "level": 0}
    dense = {"name": "dense", "id": None, "accuracy": 0.95, "source": "test set", "retained_flops": 1.0}
    budget = {"text": "50%flops", "resource": "macs", "low": share, "high": 0.5}
    tree = parsed(front_figure([row], [dense], [budget], width=width))
    named = {node.text: node for node in tree.iter() if node.tag.endswith("text")}
    label = next(node for text, node in named.items() if text and text.startswith("dense"))
    end = float(label.get("x"))
    start = end - 7 * len(label.text)
    lines = [float(node.get("x1")) for node in tree.iter() if node.get("class") == "budget-line"]
    assert lines
    assert not [line for line in lines if start < line < end]
