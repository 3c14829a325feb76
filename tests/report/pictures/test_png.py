"""Invariants: a PNG shows the same as its SVG: colours where they belong, every text, nothing that is not drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest

from autoprune.report.pictures.png import png
from autoprune.report.pictures.svg import Drawing

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")


def pixels(drawing: Drawing) -> np.ndarray:
    """Returns (H, W, 3) the picture at two pixels to one of the drawing."""
    return np.asarray(Image.open(io.BytesIO(png(drawing))).convert("RGB")).astype(int)


def reddish(colour: np.ndarray) -> bool:
    return bool(colour[0] > colour[2] + 60)


def test_shapes_stand_where_the_drawing_says_in_the_colours_of_its_classes() -> None:
    drawing = Drawing(120, 80, "shapes")
    drawing.add("rect", class_="kept-bar", x=10, y=10, width=20, height=20)
    drawing.add("circle", class_="f1", cx=60, cy=20, r=8)
    drawing.add("line", class_="budget-line", x1=90.0, x2=90.0, y1=0, y2=80)
    drawing.add("path", class_="accent", d="M10 60H50V70")
    drawing.add("path", class_="mark", d="M100 50l7 7l-7 7l-7 -7z")
    found = pixels(drawing)
    assert found.shape == (160, 240, 3)
    assert tuple(found[40, 40]) == (0x0B, 0x63, 0xC5)
    assert tuple(found[40, 120]) == (0xD1, 0x50, 0x0A)
    assert any(reddish(found[row, 180]) for row in range(160))
    assert found[120, 60][2] > found[120, 60][0] + 60
    assert tuple(found[114, 200]) == (255, 255, 255)  # the inside of the diamond
    assert tuple(found[150, 10]) == (255, 255, 255)


def test_texts_are_drawn_as_they_stand_and_never_as_formulas() -> None:
    drawing = Drawing(200, 40, "texts")
    drawing.text(10, 20, r"$\frac{1}{0}$ and 50 %", class_="label")
    drawing.add("text", "budget", transform="translate(180.0 35.0) rotate(-90)", class_="budget")
    found = pixels(drawing)
    assert (found[:, :300].sum(axis=2) < 300).any()
    assert any(reddish(colour) for colour in found[:, 330:370].reshape(-1, 3))
