"""Results files as Markdown, so that no figure of a README is ever typed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import ConfigError, one_line
from autoprune.report import formats

#: Accuracies of a comparison: cut as the method itself does, reconstructed, and that finetuned.
_COMPARED = ("own", "reconstructed", "finetuned")
#: What comparisons share that stand in one table: all but their budgets.
_SHARED = (
    "model",
    "data",
    "weights",
    "scope",
    "seed",
    "dense",
    "images",
    "method_epochs",
    "finetune_epochs",
    "candidates",
    "complete",
)


def results_table(folder: Path) -> str:
    """Returns results files as Markdown: searches, long finetunes beside published figures, and every comparison.

    Raises:
        ConfigError: the folder holds no results file, or one that cannot be read.
    """
    tables_of = {"search": _search_table, "published": _published_table, "comparison": _comparison_table}
    found: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in tables_of}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            kind = content.get("kind", "search")
            # The table of faults is no experiment.
            if kind in found:
                tables_of[kind]([content])  # alone at first: what it lacks is said with its name
                found[kind].append(content)
        except (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"Cannot read the results file {str(path)!r}: {one_line(error)}. Run its experiment again, or take it "
                "away if no `autoprune experiment` wrote it."
            ) from error
    if not any(found.values()):
        raise ConfigError(f"{str(folder)!r} holds no results file. Run an experiment first.")
    tables = [_search_table(found["search"])] if found["search"] else []
    tables += [_published_table(found["published"])] if found["published"] else []
    return "\n\n".join(tables + [_comparison_table(items) for items in _alike(found["comparison"])])


def _search_table(contents: Sequence[Mapping[str, Any]]) -> str:
    """Returns the figures of searches: means over seeds, with the range where there are several, the better in bold."""
    lines = [
        "| network, data, budget | dense | | uniform | incumbent | kept FLOPs | seeds | search |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for content in contents:
        runs = content["runs"]
        first = runs[0]
        share = statistics.mean(item["incumbent"]["macs"] / item["dense"]["macs"] for item in runs)
        epochs = first["finetune_epochs"]
        stages = [("no training", "accuracy_before_finetune" if epochs else "accuracy")]
        stages += [(formats.epochs(epochs), "accuracy")] if epochs else []
        minutes = statistics.mean(item["search_seconds"] for item in runs) / 60
        # A search whose candidates were all evaluated before it was resumed has taken no time.
        searched = f"{first['candidates']} candidates" + (f", {minutes:.1f} min" if minutes > 0 else "")
        errors = [item["latency"]["error"] for item in runs if item.get("latency")]
        searched += f", latency off by {100 * statistics.mean(errors):.1f} % in the median" if errors else ""
        title = f"[{first['model']}](experiments/{content['experiment']}), {first['data']}, {' '.join(first['budget'])}"
        # What has further metrics names its own first among them; a classifier's accuracy needs no name.
        title += "".join(f" ({metric})" for metric in list(first["dense"].get("metrics", ()))[:1])
        for index, (label, key) in enumerate(stages):
            accuracies = [[item[name][key] for item in runs] for name in ("uniform", "incumbent")]
            best = max(map(statistics.mean, accuracies))
            cells = [
                title if index == 0 else "",
                _percent([item["dense"]["accuracy"] for item in runs]) if index == 0 else "",
                label,
                *(_marked(_percent(values), statistics.mean(values) == best) for values in accuracies),
                f"{100 * share:.1f} %" if index == 0 else "",
                str(len(runs)) if index == 0 else "",
                searched if index == 0 else "",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _published_table(contents: Sequence[Mapping[str, Any]]) -> str:
    """Returns long finetunes beside what others have published: a line a figure."""
    lines = [
        "| network | by | FLOPs removed | dense | no training | finetuned | epochs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for content in contents:
        run, tuned = content["run"], content["finetuned"]
        removed = 1 - run["incumbent"]["macs"] / run["dense"]["macs"]
        best = max([100 * tuned["accuracy"], *(item["accuracy"] for item in content["published"])])
        taught = f", taught by {tuned['teacher_model'] or tuned['teacher']}" if "teacher" in tuned else ""
        own = [
            f"[{run['model']}](experiments/{content['experiment']})",
            f"autoprune{taught}",
            f"{100 * removed:.1f} %",
            _percent([run["dense"]["accuracy"]]),
            _percent([tuned["accuracy_before"]]),
            _marked(_percent([tuned["accuracy"]]), 100 * tuned["accuracy"] == best),
            f"{tuned['epochs']:g}",
        ]
        others = [
            [
                "",
                f"{item['method']} ({item['source']})",
                f"{item['removed']:.1f} %",
                f"{item['dense']:.2f}",
                "",
                _marked(f"{item['accuracy']:.2f}", item["accuracy"] == best),
                "",
            ]
            for item in content["published"]
        ]
        lines += ["| " + " | ".join(cells) + " |" for cells in (own, *others)]
    return "\n".join(lines)


def _alike(contents: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Returns comparisons grouped by the tables that they stand in: one file may have been recorded for each budget."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for content in contents:
        shared = json.dumps([content.get(name) for name in _SHARED], sort_keys=True)
        groups.setdefault(shared, []).append(content)
    return list(groups.values())


def _comparison_table(contents: Sequence[Mapping[str, Any]]) -> str:
    """Returns one table of comparisons that are alike: a line a method, columns for each budget, the best in bold."""
    # The widest budget first: what is left of the dense network says which that is.
    rows = [row for content in contents for row in content["rows"]]
    budgets = list(dict.fromkeys(row["budget"] for row in sorted(rows, key=lambda row: -row.get("macs", 0))))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    found = {(row["budget"], row["method"]): row for row in rows}
    headers = ["method"]
    for budget in budgets:
        headers += [f"{budget}: its own way", "reconstructed", "finetuned", "seconds"]
    lines = [_comparison_caption(contents), "", "| " + " | ".join(headers) + " |", "|" + " --- |" * len(headers)]
    best = {(budget, key): _best(rows, budget, key) for budget in budgets for key in _COMPARED}
    methods.sort(key=lambda method: -_rank(found.get((budgets[0], method), {})))
    for method in methods:
        cells = [method]
        for budget in budgets:
            row = found.get((budget, method), {"failed": "not run"})
            if "failed" in row:
                cells += [f"failed: {row['failed']}", "", "", ""]
                continue
            cells += [_bold(row[key], best[budget, key]) for key in _COMPARED] + [f"{row['seconds']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _comparison_caption(contents: Sequence[Mapping[str, Any]]) -> str:
    first = contents[0]
    files = ", ".join(f"[{Path(item['experiment']).stem}](experiments/{item['experiment']})" for item in contents)
    trained, finetuned = formats.epochs(first["method_epochs"]), formats.epochs(first["finetune_epochs"])
    return (
        f"{first['model']} on {first['data']}, dense {100 * first['dense']['accuracy']:.2f}, "
        f"{first['images']['test']:,} test images ({files}); methods that train spent {trained} before, "
        f"the search {first['candidates']} candidates, the finetune {finetuned}"
        + (":" if first["complete"] else "; stopped before its last methods:")
    )


def _best(rows: Sequence[Mapping[str, Any]], budget: str, key: str) -> float | None:
    return max((row[key] for row in rows if row["budget"] == budget and row.get(key) is not None), default=None)


def _rank(row: Mapping[str, Any]) -> float:
    """Returns what the lines of a table are sorted by: the last accuracy there is."""
    return float(next((row[key] for key in reversed(_COMPARED) if row.get(key) is not None), -1.0))


def _bold(value: float | None, best: float | None) -> str:
    if value is None:
        return ""
    return _marked(f"{100 * value:.2f}", value == best)


def _marked(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text


def _percent(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f}"
    if len(values) == 1 or min(values) == max(values):
        return mean
    return f"{mean} ({100 * min(values):.2f} to {100 * max(values):.2f})"
