"""The pictures of the report but its front: progress, widths, costs of layers, first against last rung, a training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from autoprune.report import formats
from autoprune.report.pictures.svg import Axes, Drawing, padded, percent, plain, ticks, whole

Rows = Sequence[Mapping[str, Any]]

#: Pixels: of a page's column and of a paper's, and of a phone's.
WIDE, NARROW = 900, 340
#: More layers than this are drawn by block.
MOST_LAYERS = 60
#: Pixels that a letter takes, about.
LETTER = 7.0


def progress_figure(
    steps: Rows, scores: Sequence[tuple[int, float]], *, width: int = WIDE, rungs: Sequence[str] = ()
) -> Drawing:
    """Returns the incumbent's score, and the front's hypervolume, over the candidates evaluated.

    Args:
        steps: of `records.progress.progress_of`.
        scores: (which candidate it was, score of its last rung) of every candidate.
        width: in pixels.
        rungs: names of the rungs, to say where scores begin to be of another.
    """
    drawing = Drawing(width, 460, "The incumbent's score and the front's hypervolume over the candidates")
    last = max([step["candidates"] for step in steps] + [number for number, _ in scores], default=1)
    # What is known of a candidate before the first of the highest rung does not compare with the rest.
    top = max((step["level"] for step in steps), default=0)
    comparable = [step for step in steps if step["level"] == top]
    best = [step["score"] for step in comparable]
    seen = sorted(score for _, score in scores)
    low = min([*best, seen[len(seen) // 4]]) if seen else min(best, default=0.0)
    high = max([*best, *seen], default=1.0)
    upper = Axes(drawing, (64, 30, width - 16, 240), (0, last + 0.5), padded(low, high, share=0.08, least=0.002))
    volumes = [step["hypervolume"] for step in comparable]
    reach = padded(min(volumes, default=0.0), max(volumes, default=1.0), share=0.1, least=0.002)
    lower = Axes(drawing, (64, 290, width - 16, 412), (0, last + 0.5), reach)
    many = 4 if width < 500 else 10
    upper.grid(x_name="", y_name="score", x_text=whole, y_text=plain, x_ticks=many, whole=True)
    lower.grid(
        x_name="candidates evaluated",
        y_name="hypervolume of the front",
        x_text=whole,
        y_text=plain,
        x_ticks=many,
        y_ticks=3,
        whole=True,
    )
    for number, score in scores:
        if upper.holds(number, score):
            drawing.add("circle", class_="faint", cx=upper.x(number), cy=upper.y(score), r=3)
    upper.steps([(step["candidates"], step["score"]) for step in comparable], "accent")
    lower.steps([(step["candidates"], step["hypervolume"]) for step in comparable], "accent")
    if comparable:
        end = upper.y(best[-1])
        drawing.text(upper.box[2] - 4, end - 8, f"incumbent {best[-1]:.4f}", class_="label", text_anchor="end")
        start = comparable[0]["candidates"]
        if start > 2 and top < len(rungs):
            drawing.add("line", class_="dense-line", x1=upper.x(start), x2=upper.x(start), y1=30, y2=412)
            drawing.text(upper.x(start) + 5, upper.box[3] - 8, f"{rungs[top]} from here", class_="small")
    return drawing


def widths_figure(
    dense: Mapping[str, int], kept: Mapping[str, int], uniform: Mapping[str, int], *, width: int = WIDE
) -> Drawing:
    """Returns dense and kept channels of every group, side by side in the order of the network.

    Args:
        dense: {group: width}.
        kept: likewise, of the pruned network.
        uniform: likewise, of the uniform one it is compared with; empty for none.
        width: in pixels.
    """
    names = list(dense)
    left, right = 46.0, width - 12.0
    slot = (right - left) / max(1, len(names))
    every = max(1, round(15 / slot + 0.49))
    shown = [_tail(name, 22) for name in names]
    foot = 18 + 5.4 * max((len(name) for name in shown), default=0)
    drawing = Drawing(width, round(292 + foot), "Channels of every group, dense and kept")
    axes = Axes(drawing, (left, 54, right, 280), (0, max(1, len(names))), (0, 1.04 * max(dense.values(), default=1)))
    values, _ = ticks(axes.y_range, 5)
    for value in values:
        drawing.add("line", class_="grid", x1=left, x2=right, y1=axes.y(value), y2=axes.y(value))
        if abs(value - round(value)) < 1e-9:
            drawing.text(left - 6, axes.y(value) + 4, f"{value:.0f}", text_anchor="end")
    drawing.text(4, 44, "channels")
    _key(drawing, [("dense-bar", "dense"), ("kept-bar", "kept"), *([("tick", "uniform")] if uniform else [])])
    bar = min(0.74 * slot, 30.0)
    for index, name in enumerate(names):
        at = left + (index + 0.5) * slot
        for value, class_ in ((dense[name], "dense-bar"), (kept.get(name, dense[name]), "kept-bar")):
            top = axes.y(value)
            drawing.add("rect", class_=class_, x=at - bar / 2, y=top, width=bar, height=axes.box[3] - top)
        if name in uniform:
            mark = axes.y(uniform[name])
            drawing.add("line", class_="tick", x1=at - bar / 2 - 1, x2=at + bar / 2 + 1, y1=mark, y2=mark)
        if index % every == 0:
            place = f"translate({at + 4:.1f} 292) rotate(-58)"
            drawing.add("text", shown[index], transform=place, text_anchor="end", class_="small")
    drawing.add("line", class_="axis", x1=left, x2=right, y1=axes.box[3], y2=axes.box[3])
    return drawing


def layers_figure(layers: Rows, *, width: int = WIDE) -> Drawing:
    """Returns where the MACs are: a bar a layer, dense behind pruned; of long networks a bar a block.

    Args:
        layers: `{"name", "dense", "pruned"}` MACs.
        width: in pixels.
    """
    bars = merged_layers(layers)
    narrow = width < 500
    limit = 14 if narrow else 30
    left = 14 + 6.6 * max((len(_tail(str(bar["name"]), limit)) for bar in bars), default=0)
    right = width - (58 if narrow else 170)
    drawing = Drawing(width, 34 + 19 * len(bars), "Multiply-accumulates of every layer, dense and pruned")
    largest = max((bar["dense"] for bar in bars), default=1) or 1
    _key(drawing, [("dense-bar", "dense"), ("kept-bar", "pruned")])
    for index, bar in enumerate(bars):
        top = 30 + 19 * index
        drawing.text(left - 8, top + 11, _tail(str(bar["name"]), limit), text_anchor="end", class_="small")
        for key, class_ in (("dense", "dense-bar"), ("pruned", "kept-bar")):
            length = max(1.0, (right - left) * bar[key] / largest)
            drawing.add("rect", class_=class_, x=left, y=top, width=length, height=13, rx=2)
        share = formats.share(bar["pruned"] / bar["dense"] if bar["dense"] else None)
        said = share if narrow else f"{formats.count(bar['dense'])} to {formats.count(bar['pruned'])}, {share}"
        drawing.text(right + 8, top + 11, said, class_="small")
    return drawing


def merged_layers(layers: Rows) -> list[dict[str, Any]]:
    """Returns the layers, or where they are many sums over the blocks they belong to."""
    found = [{"name": str(layer["name"]), "dense": layer["dense"], "pruned": layer["pruned"]} for layer in layers]
    depth = max((layer["name"].count(".") for layer in found), default=0)
    while len(found) > MOST_LAYERS and depth > 0:
        parts = groupby(found, key=lambda layer: ".".join(layer["name"].split(".")[:depth]))
        found = [_sum(name, list(members)) for name, members in parts]
        depth -= 1
    return found


def rungs_figure(agreement: Mapping[str, Any], *, incumbent: int | None, width: int = WIDE) -> Drawing:
    """Returns the last rung's scores against the first's, a point a candidate that has both."""
    pairs = agreement["candidates"]
    drawing = Drawing(width, 380, f"Score of the {agreement['last']} rung against that of {agreement['first']}")
    ranges = [
        padded(min(pair[axis] for pair in pairs), max(pair[axis] for pair in pairs), share=0.08, least=0.002)
        for axis in (1, 2)
    ]
    axes = Axes(drawing, (64, 30, width - 16, 332), ranges[0], ranges[1])
    axes.grid(
        x_name=f"score of the first rung ({agreement['first']})",
        y_name=f"score of the last rung ({agreement['last']})",
        x_text=plain,
        y_text=plain,
        x_ticks=4 if width < 500 else 8,
    )
    for number, first, last in pairs:
        x, y = axes.x(first), axes.y(last)
        drawing.add("circle", class_="kept-bar", cx=x, cy=y, r=4.5, opacity=0.75)
        if number == incumbent:
            drawing.add("circle", class_="ring", cx=x, cy=y, r=9)
            ends = x > (axes.box[0] + axes.box[2]) / 2
            drawing.text(
                x - 14 if ends else x + 14, y + 4, "incumbent", class_="label", text_anchor="end" if ends else "start"
            )
    return drawing


def training_figure(history: Rows, *, width: int = WIDE, metric: str = "accuracy") -> Drawing:
    """Returns the hold-out metric and the training loss over the epochs of a training."""
    drawing = Drawing(width, 460, f"Hold-out {metric} and training loss over the epochs")
    epochs = [float(row["epoch"]) for row in history]
    reach = (0.0, max(epochs, default=1.0) * 1.01)
    for key, box, name, text in (
        ("holdout_accuracy", (64, 30, width - 16, 220), f"hold-out {metric}", percent),
        ("train_loss", (64, 270, width - 16, 412), "training loss", plain),
    ):
        values = [float(row[key]) for row in history]
        limits = padded(min(values, default=0.0), max(values, default=1.0), share=0.1, least=0.002)
        axes = Axes(drawing, box, reach, limits)
        low = key == "train_loss"
        axes.grid(
            x_name="epochs" if low else "",
            y_name=name,
            x_text=lambda value, _digits: f"{value:g}",
            y_text=text,
            x_ticks=4 if width < 500 else 10,
        )
        points = list(zip(epochs, values, strict=True))
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
        drawing.add("polyline", class_="accent", points=path)
        if len(points) <= 40:
            for x, y in points:
                drawing.add("circle", class_="kept-bar", cx=axes.x(x), cy=axes.y(y), r=3)
    return drawing


def _legend_places(entries: Sequence[tuple[str, int]], width: int) -> list[tuple[float, int, str, int]]:
    places, x, line = [], 8.0, 0
    for name, colour in entries:
        said = _tail(formats.one_line(name), 34)
        long = 26 + LETTER * len(said)
        if x + long > width and x > 8:
            x, line = 8.0, line + 1
        places.append((x, line, said, colour))
        x += long
    return places


def legend_height(entries: Sequence[tuple[str, int]], width: int) -> int:
    """Returns how many pixels `legend` needs."""
    lines = [line for _, line, _, _ in _legend_places(entries, width)]
    return 20 * (max(lines) + 1) + 4 if lines else 0


def legend(drawing: Drawing, entries: Sequence[tuple[str, int]], *, top: int) -> None:
    """Draws (name, colour) entries from `top` on."""
    for x, line, said, colour in _legend_places(entries, drawing.width):
        y = top + 14 + 20 * line
        drawing.add("circle", class_=f"f{colour}", cx=x + 5, cy=y - 4, r=5)
        drawing.text(x + 15, y, said)


def _key(drawing: Drawing, entries: Iterable[tuple[str, str]]) -> None:
    x = 6.0
    for class_, name in entries:
        if class_ == "tick":
            drawing.add("line", class_=class_, x1=x, x2=x + 13, y1=13, y2=13)
        else:
            drawing.add("rect", class_=class_, x=x, y=7, width=13, height=11, rx=2)
        drawing.text(x + 19, 17, name)
        x += 36 + LETTER * len(name)


def _tail(name: str, limit: int) -> str:
    return name if len(name) <= limit else "…" + name[-(limit - 1) :]


def _sum(name: str, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"name": name, **{key: sum(member[key] for member in members) for key in ("dense", "pruned")}}
