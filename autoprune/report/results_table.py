"""Results files as Markdown, so that no figure of a README is ever typed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import ConfigError


def results_table(folder: Path) -> str:
    """Returns the results files of a folder as Markdown: one table of searches, one of each comparison.

    Raises:
        ConfigError: the folder holds no results file, or one that cannot be read.
    """
    searches, comparisons = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            (comparisons if content.get("kind") == "comparison" else searches).append(content)
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"Cannot read the results file {str(path)!r}: {error}. Run its experiment again."
            ) from error
    if not searches and not comparisons:
        raise ConfigError(f"{str(folder)!r} holds no results file. Run an experiment first.")
    tables = ([_search_table(searches)] if searches else []) + [_comparison_table(item) for item in comparisons]
    return "\n\n".join(tables)


def _search_table(contents: Sequence[Mapping[str, Any]]) -> str:
    """Returns the figures of searches: means over seeds, with the range where there are several."""
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
        stages += [(f"{epochs:g} epoch{'s' if epochs != 1 else ''}", "accuracy")] if epochs else []
        minutes = statistics.mean(item["search_seconds"] for item in runs) / 60
        name = f"[{first['model']}](experiments/{content['experiment']}), {first['data']}, {' '.join(first['budget'])}"
        for index, (label, key) in enumerate(stages):
            cells = [
                name if index == 0 else "",
                _percent([item["dense"]["accuracy"] for item in runs]) if index == 0 else "",
                label,
                _percent([item["uniform"][key] for item in runs]),
                f"**{_percent([item['incumbent'][key] for item in runs])}**",
                f"{100 * share:.1f} %" if index == 0 else "",
                str(len(runs)) if index == 0 else "",
                f"{first['candidates']} candidates, {minutes:.1f} min" if index == 0 else "",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _comparison_table(content: Mapping[str, Any]) -> str:
    """Returns one table of a comparison, the best of each column within a budget in bold."""
    epochs, dense = content["finetune_epochs"], content["dense"]
    lines = [
        f"[{content['model']}](experiments/{content['experiment']}) on {content['data']}, dense "
        f"{100 * dense['accuracy']:.2f}, scope {content['scope']}, {content['images']['test']:,} test images; "
        f"finetuned for {epochs:g} epochs:",
        "",
        "| budget | method | cut its own way | reconstructed | finetuned | kept | epochs before | seconds | source |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for budget in dict.fromkeys(row["budget"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["budget"] == budget]
        sound = [row for row in rows if "failed" not in row]
        best = {
            key: max((row[key] for row in sound if row[key] is not None), default=None)
            for key in ("own", "reconstructed", "finetuned")
        }
        ranked = sorted(sound, key=lambda row: -(row["finetuned"] or row["reconstructed"]))
        for row in ranked:
            figures = [_bold(row[key], best[key]) for key in ("own", "reconstructed", "finetuned")]
            share = f"{100 * row['macs'] / dense['macs']:.1f} %"
            cells = [
                budget,
                row["method"],
                *figures,
                share,
                f"{row['epochs']:g}",
                f"{row['seconds']:.1f}",
                row["source"],
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines += [f"| {budget} | {row['method']} | failed: {row['failed']} |" for row in rows if "failed" in row]
    return "\n".join(lines)


def _bold(value: float | None, best: float | None) -> str:
    if value is None:
        return ""
    text = f"{100 * value:.2f}"
    return f"**{text}**" if value == best else text


def _percent(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f}"
    if len(values) == 1 or min(values) == max(values):
        return mean
    return f"{mean} ({100 * min(values):.2f} to {100 * max(values):.2f})"
