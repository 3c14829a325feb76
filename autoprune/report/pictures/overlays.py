"""The pictures of several runs at once: their fronts and their progress, a colour a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.report.pictures.figures import WIDE, legend, legend_height
from autoprune.report.pictures.front import front_axes, front_line, kept_of, on_axis
from autoprune.report.pictures.svg import COLOURS, Axes, Drawing, padded, percent, plain, whole

Rows = Sequence[Mapping[str, Any]]


def overlaid_fronts(
    runs: Sequence[tuple[str, Rows]], *, resource: str = "macs", width: int = WIDE, metric: str = "accuracy"
) -> Drawing:
    """Returns the fronts of several runs, each with its candidates of the same rung behind it, faint.

    Args:
        runs: (name, rows of the candidates); those with `times` get a bar from `low` to `high`.
        resource: whose share is kept.
        width: in pixels.
        metric: what people call the accuracy of the task.
    """
    entries = [(name, index % COLOURS) for index, (name, _) in enumerate(runs)]
    bottom = legend_height(entries, width)
    drawing = Drawing(width, 430 + bottom, "Fronts of several runs")
    placed = [on_axis(rows, resource) for _, rows in runs]
    finished = [[row for row in rows if row["level"] == max(r["level"] for r in rows)] for rows in placed]
    axes = front_axes(drawing, [row for rows in finished for row in rows], (), (), bottom=bottom)
    axes.grid(
        x_name=kept_of(resource),
        y_name=f"hold-out {metric}",
        x_text=percent,
        y_text=percent,
        x_ticks=4 if width < 500 else 8,
    )
    for index, rows in enumerate(finished):
        colour = index % COLOURS
        shown = [row for row in rows if axes.holds(row["share"], row["accuracy"])]
        for row in shown:
            x, y = axes.x(row["share"]), axes.y(row["accuracy"])
            size, opacity = (5.5, 1.0) if row["front"] else (3.0, 0.35)
            if "times" in row:
                axes.bar(row["share"], row["low"], row["high"], f"s{colour}")
            drawing.add("circle", class_=f"f{colour}", cx=x, cy=y, r=size, opacity=opacity)
        axes.front(front_line(rows), f"curve s{colour}")
    legend(drawing, entries, top=430)
    return drawing


def overlaid_progress(runs: Sequence[tuple[str, Rows]], *, width: int = WIDE) -> Drawing:
    """Returns the incumbents' scores of several runs over the candidates evaluated.

    Args:
        runs: (name, steps of `records.progress.progress_of`).
        width: in pixels.
    """
    entries = [(name, index % COLOURS) for index, (name, _) in enumerate(runs)]
    bottom = legend_height(entries, width)
    drawing = Drawing(width, 360 + bottom, "Scores of the incumbents over the candidates evaluated")
    lines = [[s for s in steps if s["level"] == max(one["level"] for one in steps)] for _, steps in runs]
    scores = [step["score"] for steps in lines for step in steps]
    last = max((step["candidates"] for steps in lines for step in steps), default=1)
    limits = padded(min(scores, default=0.0), max(scores, default=1.0), share=0.08, least=0.002)
    axes = Axes(drawing, (64, 30, width - 16, 312), (0, last + 0.5), limits)
    axes.grid(
        x_name="candidates evaluated",
        y_name="score of the incumbent",
        x_text=whole,
        y_text=plain,
        x_ticks=4 if width < 500 else 10,
        whole=True,
    )
    for index, steps in enumerate(lines):
        points = [(step["candidates"], step["score"]) for step in steps]
        # A run ends where it ended: another one may have had more candidates.
        axes.steps(points, f"curve s{index % COLOURS}", to_edge=False)
        if points:
            x, y = points[-1]
            drawing.add("circle", class_=f"f{index % COLOURS}", cx=axes.x(x), cy=axes.y(y), r=4)
    legend(drawing, entries, top=360)
    return drawing
