"""The figures as Markdown tables and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.report.pictures.figures import legend, legend_height
from autoprune.report.pictures.svg import Axes, Drawing, padded, percent
from experiments.benchmarks.peers.contestants import CONTESTANTS, OURS
from experiments.benchmarks.peers.figures import VIEWS, standings

Figures = Sequence[Mapping[str, Any]]

_PEERS = [name for name in CONTESTANTS if name != OURS]
_WIDTH, _HEIGHT = 900, 380


def short_table(networks: Figures) -> str:
    """Returns the table of the README: by how many points autoprune leads each peer, or trails it."""
    names = [name for name in _PEERS if any(name in rows for one in networks for rows in one["budgets"].values())]
    lines = [
        "| network, budget | a peer's widths | autoprune | "
        + " | ".join(CONTESTANTS[name].label for name in names)
        + " |",
        "| --- " * (len(names) + 3) + "|",
    ]
    for network in networks:
        for budget, rows in network["budgets"].items():
            if OURS not in rows or "cut" not in rows[OURS]:
                continue
            for view, said in (("slice", "its own cut"), ("cut", "our cut")):
                first = f"{network['name']}, {budget}" if view == "slice" else ""
                ours = f"{100 * rows[OURS]['cut']['accuracy']:.2f}" if view == "slice" else ""
                cells = [_lead(rows.get(name), view) for name in names]
                lines.append("| " + " | ".join([first, said, ours, *cells]) + " |")
    return "\n".join(lines) + "\n\n" + _verdicts(networks)


def _lead(row: Mapping[str, Any] | None, view: str) -> str:
    if row is None:
        return ""
    if view not in row:
        return "failed" if "failed" in row else ""
    lead = row[view].get("lead")
    if lead is None:
        return ""
    low, high = lead["interval"]
    return f"{100 * lead['points']:+.1f} [{100 * low:.1f}, {100 * high:.1f}] {lead['verdict']}"


def _verdicts(networks: Figures) -> str:
    parts = [
        f"{view}: won {counts['win']}, tied {counts['tie']}, lost {counts['loss']}"
        for view, counts in standings(networks).items()
    ]
    return "; ".join(parts) + "."


def long_table(networks: Figures) -> str:
    """Returns everything: a table a network and budget, a line a method."""
    parts = []
    for network in networks:
        images = network["images"]
        parts.append(
            f"## {network['name']}\n\n`{network['model']}` on {network['data']}; dense "
            f"{100 * network['dense']:.2f} % of {images['test']} test images; {images['calibration']} images "
            f"calibrate, {images['holdout']} score; finetune {network['finetune_epochs']:g} epochs."
        )
        for budget, rows in network["budgets"].items():
            parts.append(f"### {network['name']}, {budget}\n\n{_methods(rows)}")
        if network["hypervolume"]:
            parts.append(_volumes(network["hypervolume"]))
    return "\n\n".join(parts)


def _methods(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| method | seeds | scorings | seconds | " + " | ".join(f"{view} | lead of autoprune" for view in VIEWS) + " |",
        "| --- " * (4 + 2 * len(VIEWS)) + "|",
    ]
    for name, row in rows.items():
        label = CONTESTANTS[name].label
        if not row["seeds"]:
            lines.append(f"| {label} | 0 | failed: {row['failed']} |" + " |" * (2 + 2 * len(VIEWS) - 1))
            continue
        cells = [label, str(len(row["seeds"])), f"{row['scorings']:.0f}", f"{row['seconds']:.0f}"]
        for view in VIEWS:
            cells += [_accuracy(row.get(view)), _lead(row, view) if row.get(view, {}).get("lead") else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _accuracy(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["interval"]
    return f"{100 * found['accuracy']:.2f} [{100 * low:.1f}, {100 * high:.1f}] at {100 * found['kept']:.1f} %"


def _volumes(volumes: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| mean accuracy over 20..80 % of the FLOPs | slice | cut | seeds |", "| --- | --- | --- | --- |"]
    for name, row in volumes.items():
        cells = [f"{100 * row[view]['mean']:.2f}" if view in row else "" for view in ("slice", "cut")]
        lines.append(
            f"| {CONTESTANTS[name].label} | {' | '.join(cells)} | {max(one['seeds'] for one in row.values())} |"
        )
    return "\n".join(lines)


def picture(network: Mapping[str, Any], budget: str) -> Drawing:
    """Returns hold-out accuracy after our cut against scorings and against seconds, both on a logarithmic axis."""
    rows = network["budgets"][budget]
    shown = [(name, row["curve"]) for name, row in rows.items() if row.get("curve")]
    entries = [(CONTESTANTS[name].label, index) for index, (name, _) in enumerate(shown)]
    bottom = legend_height(entries, _WIDTH)
    title = f"{network['name']} at {budget}: accuracy of the best so far"
    drawing = Drawing(_WIDTH, _HEIGHT + bottom, title)
    values = sorted(step[2] for _, curve in shown for step in curve)
    # The first steps of a bad start would squeeze everything that matters.
    low = max(values[0], min(curve[-1][2] for _, curve in shown) - 0.1)
    limits = padded(low, values[-1], share=0.08, least=0.002)
    boxes = ((64, 40, _WIDTH / 2 - 16, _HEIGHT - 60), (_WIDTH / 2 + 48, 40, _WIDTH - 16, _HEIGHT - 60))
    for box, column, name in zip(boxes, (0, 1), ("scorings", "seconds of the processor"), strict=True):
        _panel(Axes(drawing, box, _decades(shown, column), limits), rows, shown, column=column, name=name)
    legend(drawing, entries, top=_HEIGHT)
    return drawing


def _decades(shown: Sequence[tuple[str, Any]], column: int) -> tuple[float, float]:
    places = [max(1.0, step[column]) for _, curve in shown for step in curve]
    return math.floor(math.log10(min(places))), math.ceil(math.log10(1.01 * max(places)))


def _panel(axes: Axes, rows: Mapping[str, Any], shown: Sequence[tuple[str, Any]], *, column: int, name: str) -> None:
    def power(value: float, _digits: int) -> str:
        return f"{10.0**value:g}"

    axes.grid(x_name=name, y_name="hold-out accuracy", x_text=power, y_text=percent, x_ticks=4, whole=True)
    for index, (method, curve) in enumerate(shown):
        end = (rows[method]["scorings"], rows[method]["seconds"])[column]
        points = [(math.log10(max(1.0, step[column])), step[2]) for step in curve]
        points.append((min(axes.x_range[1], math.log10(max(end, 1.0))), curve[-1][2]))
        axes.steps(points, f"curve s{index}", to_edge=False)
        x, y = points[-1]
        axes.drawing.add("circle", class_=f"f{index}", cx=axes.x(x), cy=axes.y(y), r=4)
