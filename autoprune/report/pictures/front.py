"""The picture of the front: accuracy against what is kept, with the budget and the networks that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.core.resources import RESOURCES
from autoprune.report import formats
from autoprune.report.pictures.figures import LETTER, WIDE, Rows, legend, legend_height
from autoprune.report.pictures.svg import COLOURS, Axes, Drawing, padded, percent

Marks = Sequence[Mapping[str, Any]]


def front_figure(
    rows: Rows,
    marks: Marks,
    budgets: Marks,
    *,
    resource: str = "macs",
    width: int = WIDE,
    metric: str = "accuracy",
) -> Drawing:
    """Returns accuracy against kept cost: every candidate, the front, the budget, the networks that were compared.

    Args:
        rows: of the candidates.
        marks: dense, uniform and incumbent as `pages.front.front_data` has them.
        budgets: likewise.
        resource: whose share is kept.
        width: in pixels.
        metric: what people call the accuracy of this task.
    """
    rows, marks = on_axis(rows, resource), on_axis(marks, resource)
    budgets = [budget for budget in budgets if budget["resource"] == resource]
    names = list(dict.fromkeys(str(row["proposed_by"]) for row in rows))
    places = [place for place in (_placed(mark, rows) for mark in marks) if place["accuracy"] is not None]
    dense = next((mark for mark in places if mark["name"] == "dense"), None)
    entries = [(name, index % COLOURS) for index, name in enumerate(names)]
    bottom = legend_height(entries, width)
    kept = kept_of(resource)
    drawing = Drawing(width, 430 + bottom, f"Hold-out {metric} against {kept}")
    axes = front_axes(drawing, rows, places, budgets, bottom=bottom)
    axes.grid(
        x_name=kept,
        y_name=f"hold-out {metric}",
        x_text=percent,
        y_text=percent,
        x_ticks=4 if width < 500 else 8,
    )
    _budget_lines(axes, budgets)
    axes.front(front_line(rows), "front")
    top = max((row["level"] for row in rows), default=0)
    for row in sorted(rows, key=lambda row: (row["front"], row["level"])):
        if axes.holds(row["share"], row["accuracy"]):
            _candidate(axes, row, colour=names.index(str(row["proposed_by"])) % COLOURS, filled=row["level"] == top)
    _labels(axes, places, dense, budgets)
    below = sum(row["accuracy"] < axes.y_range[0] for row in rows)
    if below:
        drawing.text(axes.box[0] + 8, axes.box[3] - 8, f"{below} below this range", class_="small")
    legend(drawing, entries, top=430)
    return drawing


def on_axis(points: Rows, resource: str) -> list[dict[str, Any]]:
    """Returns candidates or marks with the `share` that they keep of a resource; None where it is not known."""
    return [{**point, "share": point.get(RESOURCES[resource].retained)} for point in points]


def kept_of(resource: str) -> str:
    """Returns the name of an axis of such shares."""
    return f"{RESOURCES[resource].share_of} kept of the dense network"


def front_line(rows: Rows) -> list[tuple[float, float]]:
    """Returns the corners (share, accuracy) of the front, cheapest first, of rows that are placed `on_axis`."""
    front = sorted((row for row in rows if row["front"]), key=lambda row: (row["share"], row["id"]))
    return [(row["share"], row["accuracy"]) for row in front]


def front_axes(drawing: Drawing, rows: Rows, marks: Marks, budgets: Marks, *, bottom: int) -> Axes:
    """Returns axes that show the better half of the candidates and everything that is marked, all placed `on_axis`."""
    others = [mark for mark in marks if mark["name"] != "dense" and mark["share"] is not None]
    shares = [point["share"] for point in (*rows, *others)] or [0.5]
    low, high = min(shares), max(shares)
    # All candidates of a single budget lie within a hair of it; dense at 100 % would squeeze them into a line.
    if high - low > 0.12 and len(others) < len(marks):
        high = 1.0
    for budget in budgets:
        low, high = min(low, budget["low"]), max(high, budget["high"])
    ordered = sorted(point["accuracy"] for point in (*rows, *others)) or [0.0, 1.0]
    middle, best = ordered[len(ordered) // 2], ordered[-1]
    # Many poor candidates would press the good ones into a line at the top.
    crowded = len(ordered) > 8 and middle - ordered[0] > 3 * (best - middle)
    floor = min([middle if crowded else ordered[0], *(mark["accuracy"] for mark in others)])
    top = max([best, *(mark["accuracy"] for mark in marks)])
    box = (64, 30, drawing.width - 16, drawing.height - bottom - 48)
    limits = padded(floor, top, share=0.07, least=0.002)
    return Axes(
        drawing, box, padded(low, high, share=0.06, least=0.0004), (max(limits[0], -0.02), min(limits[1], 1.02))
    )


def _placed(mark: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """Returns a mark where its candidate was scored, so that it compares with the others."""
    row = next((row for row in rows if row["id"] == mark.get("id")), None)
    if row is None:
        return {**mark, "row": False}
    return {**mark, "row": True, "accuracy": row["accuracy"], "share": row["share"]}


def _candidate(axes: Axes, row: Mapping[str, Any], *, colour: int, filled: bool) -> None:
    if "times" in row:
        axes.bar(row["share"], row["low"], row["high"], f"s{colour}")
    axes.drawing.add(
        "circle",
        class_=f"f{colour}" if filled else f"s{colour}",
        fill=None if filled else "none",
        cx=axes.x(row["share"]),
        cy=axes.y(row["accuracy"]),
        r=6 if row["front"] else 4,
        opacity=1 if row["front"] else 0.72,
    )


def _budget_lines(axes: Axes, budgets: Marks) -> None:
    left, top, right, bottom = axes.box
    for budget in budgets:
        low, high = (min(max(axes.x(budget[end]), left), right) for end in ("low", "high"))
        if high > low:
            axes.drawing.add("rect", class_="band", x=low, width=high - low, y=top, height=bottom - top)
        for at in {low, high}:
            axes.drawing.add("line", class_="budget-line", x1=at, x2=at, y1=top, y2=bottom)
        place = f"translate({high - 6:.1f} {bottom - 10:.1f}) rotate(-90)"
        axes.drawing.add("text", f"budget {budget['text']}", transform=place, class_="budget")


def _budget_places(axes: Axes, budgets: Marks) -> list[float]:
    """Returns where the lines of budgets stand on the horizontal axis, the rightmost first."""
    shares = {budget[end] for budget in budgets for end in ("low", "high")}
    return sorted((axes.x(share) for share in shares), reverse=True)


def _clear_of(lines: Sequence[float], end: float, long: float) -> float:
    """Returns where a text of a length ends left of every line that it would cross, and of the text along the line."""
    for line in lines:
        if end > line - 4 and end - long < line + 4:
            end = line - 22
    return end


def _labels(axes: Axes, marks: Marks, dense: Mapping[str, Any] | None, budgets: Marks) -> None:
    """Names dense, uniform and incumbent; labels that would lie on one another are set apart."""
    drawing, taken = axes.drawing, []
    left, top, right, _ = axes.box
    if dense is not None:
        at = axes.y(dense["accuracy"])
        drawing.add("line", class_="dense-line", x1=left, x2=right, y1=at, y2=at)
        said = f"dense {formats.accuracy(dense['accuracy'])}"
        said += " (test set)" if dense.get("source") and drawing.width > 500 else ""
        end = _clear_of(_budget_places(axes, budgets), right - 4, LETTER * len(said))
        drawing.text(end, at + 16, said, class_="label", text_anchor="end")
        taken.append((at + 16, end - LETTER * len(said), end))
    for mark in marks:
        share = mark["share"]
        if mark is dense or share is None or not axes.holds(share, mark["accuracy"]):
            continue
        x, y = axes.x(share), axes.y(mark["accuracy"])
        if mark["row"]:
            drawing.add("circle", class_="ring", cx=x, cy=y, r=9.5)
        else:
            drawing.add("rect", class_="mark", x=x - 5.5, y=y - 5.5, width=11, height=11)
        said = f"{mark['name']} {formats.accuracy(mark['accuracy'])}"
        ends = x + 6 + LETTER * len(said) > right
        ends = ends or any(x + 10 < line < x + 2 + LETTER * len(said) for line in _budget_places(axes, budgets))
        start = x + 6 - LETTER * len(said) if ends else x - 6
        at = y - 14 if y - 14 > top + 4 else y + 24
        while any(abs(other - at) < 15 and start < b and start + LETTER * len(said) > a for other, a, b in taken):
            at += 15
        taken.append((at, start, start + LETTER * len(said)))
        drawing.text(x + 6 if ends else x - 6, at, said, class_="label", text_anchor="end" if ends else "start")
