"""What `autoprune report` and `autoprune compare` do: check, import what is heavy, call, show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import ConfigError, RunError

#: What a run folder holds at least one of.
_RECORDS = ("summary.json", "training.json", "ledger.jsonl")


def report(run: Path, *, out: Path | None, latency: bool, as_json: bool) -> int:
    """Writes the report of a run and says where it is."""
    _require_run(run)
    from autoprune.cli.quiet import hush_libraries
    from autoprune.report.live import LiveProgress
    from autoprune.searching.reporting import write_report

    hush_libraries()
    with LiveProgress(candidates=0) as observer:
        numbers = write_report(run, observer, out=out, latency=latency)
    if as_json:
        print(json.dumps(numbers, indent=2, default=str))
    else:
        _show_report(numbers)
    return 0


def compare(runs: Sequence[Path], *, out: Path | None, as_json: bool) -> int:
    """Writes a page of several runs and shows their table."""
    if len(runs) < 2:
        raise ConfigError("A comparison needs two runs or more: autoprune compare RUN RUN ...")
    for run in runs:
        _require_run(run)
    from autoprune.searching.reporting import write_comparison

    found = write_comparison(runs, out=out)
    if as_json:
        print(json.dumps(found, indent=2, default=str))
    else:
        _show_comparison(found)
    return 0


def _require_run(run: Path) -> None:
    if not any((run / name).is_file() for name in _RECORDS):
        raise RunError(
            f"{str(run)!r} holds no run: neither {' nor '.join(_RECORDS[:2])}. Name a folder such as runs/NAME."
        )


def _show_report(numbers: Mapping[str, Any]) -> None:
    from autoprune.cli.render import show_table
    from autoprune.report.markup import milliseconds

    agreement, latency = numbers["agreement"], numbers["latency"]
    if agreement and agreement["tau"] is not None:
        print(
            f"Kendall's tau of the first rung against the last: {agreement['tau']:+.2f} over {agreement['pairs']:,} "
            f"pairs of {len(agreement['candidates'])} candidates"
        )
    if latency:
        rows = [
            (
                row["device"],
                str(row["batch"]),
                milliseconds(row["dense"]),
                milliseconds(row["pruned"]),
                "-" if row["speedup"] is None else f"{row['speedup']:.2f}",
            )
            for row in latency["rows"]
        ]
        threads = f"{latency['threads']} thread{'s' if latency['threads'] != 1 else ''}"
        show_table(f"latency, {threads}", ("device", "batch", "dense", "pruned", "times as fast"), rows)
        if not all(row["steady"] for row in latency["rows"]):
            print("  The passes differed widely: the machine was busy, and an idle one would tell more.")
        print()
    for note in numbers["notes"]:
        if "left out" in note:
            print(f"Note: {note}")
    print(f"The report is in {numbers['page']}.")
    if numbers["pictures"]:
        names = ", ".join(Path(picture).name for picture in numbers["pictures"])
        print(f"Its pictures are in {Path(numbers['pictures'][0]).parent}: {names}.")


def _show_comparison(found: Mapping[str, Any]) -> None:
    from autoprune.cli.render import show_table
    from autoprune.report.compare_page import HEADINGS, comparison_lines

    show_table(f"{len(found['runs'])} runs", HEADINGS, comparison_lines(found["runs"]))
    print(f"\nThe page is in {found['page']}.")
