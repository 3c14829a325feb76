"""Several runs side by side: one table, their fronts and their progress in one picture each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from autoprune.report import formats
from autoprune.report.pages.markup import Counter, Draw, escape, figure, fill_page, section, table
from autoprune.report.pages.sections import seeds_section
from autoprune.report.pictures.overlays import overlaid_fronts, overlaid_progress
from autoprune.report.pictures.svg import Drawing
from autoprune.report.records.repeats import over_seeds, with_ranges

Numbers = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

#: Of the table, on the page and on a terminal alike.
HEADINGS = (
    "run",
    "model",
    "data",
    "budget",
    "dense",
    "uniform",
    "result",
    "FLOPs kept",
    "params kept",
    "candidates",
    "seconds",
    "seed",
)
_TEXTS = 4


def comparison(runs: Sequence[Numbers]) -> list[dict[str, Any]]:
    """Returns a row a run: accuracies on the test set, cost, budget, candidates, seconds and seed.

    Args:
        runs: of `records.numbers.numbers_of`.
    """
    found = []
    for name, numbers in zip(short_names([str(one["folder"]) for one in runs]), runs, strict=True):
        networks = {network["name"]: network for network in numbers["networks"]}
        result: Mapping[str, Any] = next(
            (networks[key] for key in ("incumbent", "pruned", "trained") if key in networks), {}
        )
        found.append(
            {
                "run": name,
                "folder": numbers["folder"],
                "kind": numbers["kind"],
                "model": numbers["model"],
                "data": numbers["data"],
                "metric": numbers["metric"],
                "budget": " and ".join(map(str, numbers["budget"])) or None,
                "dense": networks.get("dense", {}).get("accuracy"),
                "uniform": networks.get("uniform", {}).get("accuracy"),
                "result": result.get("accuracy"),
                "holdout_accuracy": result.get("holdout_accuracy"),
                "macs": result.get("macs"),
                "params": result.get("params"),
                "retained_flops": result.get("retained_flops"),
                "retained_params": result.get("retained_params"),
                "hypervolume": numbers["hypervolume"],
                "candidates": numbers["candidates"],
                "seconds": numbers["seconds"],
                "seed": numbers["seed"],
            }
        )
    return found


def comparison_lines(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the rows of `comparison` as texts in the order of `HEADINGS`."""
    return [
        [
            *(_text(row[key]) for key in ("run", "model", "data", "budget")),
            *(formats.accuracy(row[key]) for key in ("dense", "uniform", "result")),
            *(formats.share(row[key]) for key in ("retained_flops", "retained_params")),
            _text(row["candidates"]),
            _text(None if row["seconds"] is None else round(row["seconds"])),
            _text(row["seed"]),
        ]
        for row in found
    ]


def comparison_page(runs: Sequence[tuple[Numbers, Rows]]) -> str:
    """Returns the page of several runs.

    Args:
        runs: (numbers of `records.numbers.numbers_of`, rows of the candidates).
    """
    found = comparison([numbers for numbers, _ in runs])
    names = [row["run"] for row in found]
    count = Counter()
    tested = [index for index, row in enumerate(found) if row["result"] is not None]
    best = max(tested, key=lambda index: found[index]["result"], default=None) if _alike(found) else None
    lines = [[escape(cell) for cell in line] for line in comparison_lines(found)]
    parts = [
        f"<header><h1>{len(runs)} runs compared</h1><p>{escape(', '.join(names))}</p></header>",
        section("The results", escape(_remark(found)), table(HEADINGS, lines, texts=_TEXTS, strong=best)),
        seeds_section(over_seeds([numbers for numbers, _ in runs])),
        _fronts(names, runs, count),
        _progress(names, runs, count),
        _commands(names, runs),
        f"<footer>Written by autoprune. The figures are {_metric_of(found)} on the test set.</footer>",
    ]
    return fill_page(f"{len(runs)} runs compared: autoprune", "\n".join(part for part in parts if part))


def short_names(folders: Sequence[str]) -> list[str]:
    """Returns the shortest ends of paths that tell them apart; the same path twice is numbered."""
    parts = [PurePath(folder).parts or (folder,) for folder in folders]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    else:
        names = list(folders)
    seen: dict[str, int] = {}
    numbered = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        numbered.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return numbered


def _text(value: object) -> str:
    return "-" if value is None else formats.one_line(str(value))


def _alike(found: Sequence[Mapping[str, Any]]) -> bool:
    return len({(row["model"], row["data"]) for row in found}) == 1


def _remark(found: Sequence[Mapping[str, Any]]) -> str:
    if _alike(found):
        metric = formats.leading(_metric_of(found))
        return f"{metric} on the test set. The best result stands out; mind the costs beside it."
    return "These runs are of different networks or data: their results do not compare."


def _metric_of(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns what people call the accuracy of all of the runs; where they differ, accuracy."""
    metrics = {str(row["metric"]) for row in found}
    return metrics.pop() if len(metrics) == 1 else "accuracy"


def _fronts(names: Sequence[str], runs: Sequence[tuple[Numbers, Rows]], count: Counter) -> str:
    groups = [set(group["runs"]) for group in over_seeds([numbers for numbers, _ in runs])]
    shown = [
        (name, with_ranges(rows, [more for one, more in runs if _repeats(numbers, one, groups)]))
        for name, (numbers, rows) in zip(names, runs, strict=True)
        if rows
    ]
    if not shown:
        return ""
    metric = _metric_of([numbers for numbers, _ in runs])
    # Of fronts that trade different things MACs are what all have.
    traded = {str(numbers["front_resource"]) for numbers, rows in runs if rows}
    resource = traded.pop() if len(traded) == 1 else "macs"

    def draw(width: int) -> Drawing:
        return overlaid_fronts(shown, resource=resource, width=width, metric=metric)

    said = "Fronts of the last rung of each run (lines), and its candidates there (points)."
    bars = any("times" in row for _, rows in shown for row in rows)
    caption = count(said + (" Bars: the same structure in runs that differ in their seeds alone." if bars else ""))
    said = f"Hold-out {metric} compares where the runs held out the same images."
    return section(f"{formats.leading(metric)} against cost", said, figure(draw, caption))


def _repeats(numbers: Numbers, other: Numbers, groups: Sequence[set[str]]) -> bool:
    """Returns whether another run differs from a run in its seed alone."""
    return numbers is not other and any({numbers["folder"], other["folder"]} <= group for group in groups)


def _progress(names: Sequence[str], runs: Sequence[tuple[Numbers, Rows]], count: Counter) -> str:
    shown = [(name, one["progress"]) for name, (one, _) in zip(names, runs, strict=True) if one["progress"]]
    if not shown:
        return ""
    draw: Draw = lambda width: overlaid_progress(shown, width=width)  # noqa: E731 - a closure over `shown`
    caption = count("The score of the best candidate so far on the last rung of each run.")
    return section("Progress of the searches", "", figure(draw, caption))


def _commands(names: Sequence[str], runs: Sequence[tuple[Numbers, Rows]]) -> str:
    shown = [(name, one["command"]) for name, (one, _) in zip(names, runs, strict=True) if one["command"]]
    if not shown:
        return ""
    listed = (f"<p>{escape(name)}</p><pre class=command>{escape(command)}</pre>" for name, command in shown)
    return section("Commands", "", "".join(listed))
