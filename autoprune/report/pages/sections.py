"""Sections of a report: what other seeds reached, measured latency, and what it takes to make the run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.report import formats
from autoprune.report.pages.markup import escape, section, table
from autoprune.report.records.repeats import HEADINGS, seed_lines

Numbers = Mapping[str, Any]


def seeds_section(groups: Sequence[Mapping[str, Any]]) -> str:
    """Returns the section about runs that differ in their seeds alone; empty where there are none."""
    parts = []
    for group in groups:
        runs = ", ".join(f"{folder} (seed {seed})" for folder, seed in zip(group["runs"], group["seeds"], strict=True))
        lines = [[escape(cell) for cell in line] for line in seed_lines(group)]
        parts.append(f"<p>{escape(runs)}</p>{table(HEADINGS, lines)}")
    said = "Means, and the least and the most of any seed: other images held out, other candidates drawn."
    return section("Over seeds", said, "".join(parts)) if parts else ""


def latency_section(numbers: Numbers) -> str:
    """Returns what was measured of latency; empty where nothing was."""
    latency = numbers["latency"]
    if not latency:
        return ""
    dense = any(row.get("dense") is not None for row in latency["rows"])
    heads = ["device", "batch", *(["dense"] if dense else []), "pruned", *(["times as fast"] if dense else [])]
    heads.append("images/s pruned")
    lines = []
    for row in latency["rows"]:
        line = [escape(row["device"]), str(row["batch"])]
        line += [formats.milliseconds(row["dense"])] if dense else []
        line += [formats.milliseconds(row["pruned"])]
        line += ["-" if row["speedup"] is None else f"{row['speedup']:.2f}"] if dense else []
        lines.append([*line, f"{row['batch'] / row['pruned']:,.0f}"])
    said = (
        f"Median of at least {latency['repeats']} forward passes, in turn, after {latency['warm_up']} to warm up, "
        f"{latency['threads']} thread{'s' if latency['threads'] != 1 else ''}, {latency['machine']}, "
        f"torch {latency['torch']}, {'x'.join(map(str, latency['input_shape']))} images. FLOPs are not milliseconds: "
        "small layers and single images gain less."
    )
    if not all(row["steady"] for row in latency["rows"]):
        said += " The passes differed widely: the machine was busy, and an idle one would tell more."
    return section("Measured latency", escape(said), table(heads, lines))


def making_section(numbers: Numbers) -> str:
    """Returns command, seed, versions and machine, and what is missing."""
    command = numbers["command"]
    shown = f'<pre class="command">{escape(command)}</pre>' if command else ""
    versions = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items() if version)
    images = ", ".join(f"{count:,} {name}" for name, count in (numbers["images"] or {}).items())
    method = numbers["method"] or {}
    facts = [
        ("folder", numbers["folder"]),
        ("seed", numbers["seed"]),
        ("images", images),
        ("fidelities", " then ".join(numbers["rungs"])),
        ("finetuning", None if numbers["finetune_epochs"] is None else formats.epochs(numbers["finetune_epochs"])),
        ("source of the method", method.get("source")),
        ("hardware", numbers["hardware"]),
        ("workers", numbers["workers"] or None),
        ("time", formats.duration(numbers["seconds"]) if numbers["seconds"] else None),
        ("versions", versions),
    ]
    known = [(name, value) for name, value in facts if value not in (None, "")]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in known)
    notes = "".join(f"<li>{escape(note)}</li>" for note in numbers["notes"])
    content = f'{shown}<dl class="facts">{listed}</dl>' + (f'<ul class="notes">{notes}</ul>' if notes else "")
    return section("How it was made", "" if command else "It was started from Python: no command is known.", content)
