"""The end of a search as a person reads it: what was reached, what was kept of each layer, where it lies."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autoprune.core.resources import RESOURCES
from autoprune.report import formats
from autoprune.report.screens.widths import width_lines

Summary = Mapping[str, Any]

_NETWORKS = (("dense", ""), ("uniform", ""), ("incumbent", "bold green"))


def render_summary(summary: Summary, *, folder: Path | None = None) -> Group:
    """Returns the final report of a search for a terminal.

    Args:
        summary: the content of `summary.json`.
        folder: the run folder, named as the place of the results; the summary's own `folder`, if any, when None.
    """
    return _report(summary, folder=folder, plain=False)


def plain_summary(summary: Summary, *, folder: Path | None = None) -> str:
    """Returns the same report as lines of text, in ASCII as far as the names allow, for log files and pipes."""
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=110, no_color=True, force_terminal=False, highlight=False, legacy_windows=False
    )
    console.print(_report(summary, folder=folder, plain=True))
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def _report(summary: Summary, *, folder: Path | None, plain: bool) -> Group:
    parts: list[RenderableType] = [_title(summary), _comparison(summary, plain=plain)]
    parts += [*_budgets(summary, plain=plain), _verdict(summary), Text()]
    incumbent = summary.get("incumbent") or {}
    if incumbent.get("widths"):
        parts += [Text(f"Channels kept of each group (scope {summary.get('scope', '-')})", style="bold")]
        lines = width_lines(summary.get("groups", ()), incumbent["widths"], plain=plain)
        parts += [Padding(line, (0, 0, 0, 2)) for line in lines]
        parts += [_frozen(summary), Text()]
    parts.append(_facts(summary))
    parts += [_note(note) for note in summary.get("notes", ())]
    if folder is None and summary.get("folder"):
        folder = Path(summary["folder"])
    if folder is not None:
        parts += [Text(), Text.assemble("Results: ", (str(folder), "bold"))]
    return Group(*parts)


def _title(summary: Summary) -> Text:
    budget = " and ".join(summary.get("budget", ())) or "-"
    text = Text.assemble((_shown(summary, "model"), "bold"), f" on {_shown(summary, 'data')}, budget {budget}")
    if summary.get("interrupted"):
        text.append("  (interrupted)", style="yellow")
    return text


def _shown(summary: Summary, name: str) -> str:
    return formats.one_line(str(summary.get(name, "-")))


def _comparison(summary: Summary, *, plain: bool) -> Table:
    # What a single method has pruned stands where the incumbent of a search would.
    names = {"incumbent": "pruned"} if summary.get("method") else {}
    rows = [(names.get(name, name), style, summary[name]) for name, style in _NETWORKS if summary.get(name)]
    tested = any(row.get("accuracy") is not None for _, _, row in rows)
    before = tested and any(row.get("accuracy_before_finetune") is not None for _, _, row in rows)
    # Without the test set there is nothing but the hold-out to show.
    part, key = ("test", "accuracy") if tested else ("hold-out", "holdout_accuracy")
    heading = f"{part}\n{_shown(summary, 'metric') if summary.get('metric') else 'accuracy'}"
    # The box draws a column of its own between two cells.
    padding = (0, 2 if plain else 1, 0, 0)
    table = Table(box=None if plain else SIMPLE_HEAD, pad_edge=False, padding=padding, header_style="bold")
    table.add_column("", no_wrap=True)
    # Headings of two lines keep the table within 80 columns.
    for name in (*(["before\nfinetuning"] if before else []), heading, "MACs", "FLOPs", "kept", "params", "kept"):
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    dense = summary.get("dense") or {}
    for name, style, row in rows:
        cells = [formats.accuracy(row.get("accuracy_before_finetune"))] if before else []
        cells += [formats.accuracy(row.get(key)), formats.count(row.get("macs"))]
        for resource in ("flops", "params"):
            cells += [formats.count(row.get(resource)), _kept(row.get(resource), dense.get(resource))]
        table.add_row(name, *cells, style=style)
    return table


def _budgets(summary: Summary, *, plain: bool) -> list[RenderableType]:
    """Returns what each network takes of every budget, where the table above does not say it."""
    limits = [limit for limit in summary.get("limits") or () if limit["resource"] in RESOURCES]
    if len(limits) < 2 and all(limit["resource"] in ("macs", "params") for limit in limits):
        return []
    networks = [(name, summary[name]) for name, _ in _NETWORKS if summary.get(name)]
    names = {"incumbent": "pruned"} if summary.get("method") else {}
    padding = (0, 2 if plain else 1, 0, 0)
    table = Table(box=None if plain else SIMPLE_HEAD, pad_edge=False, padding=padding, header_style="bold")
    table.add_column("budget", no_wrap=True)
    for name in ("at most", *(names.get(name, name) for name, _ in networks), "met"):
        table.add_column(name, justify="right", no_wrap=True)
    for limit in limits:
        resource = RESOURCES[limit["resource"]]
        amounts = [limit["most"], *(network.get(resource.name) for _, network in networks)]
        cells = ["-" if amount is None else resource.shown(amount) for amount in amounts]
        met = {True: "yes", False: "NO", None: "-"}[limit["met"]]
        table.add_row(formats.one_line(str(limit["budget"])), *cells, met)
    return [Text(), table, *_latency(summary)]


def _latency(summary: Summary) -> list[RenderableType]:
    """Says where latency is meant, and how wrong its predictions are."""
    latency = summary.get("latency")
    if not latency:
        return []
    threads = f", {latency['threads']} thread{'s' if latency['threads'] != 1 else ''}"
    where = f"{latency['device']}, batch {latency['batch']}{threads if latency['device'] == 'cpu' else ''}"
    error = (
        f"predictions were off by {formats.share(latency['error'])} in the median of {len(latency['checks'])} networks"
    )
    text = f"Latency of a forward pass ({where}): {error}."
    networks, shown = latency["networks"], RESOURCES["latency"].shown
    dense, found = networks.get("dense"), networks.get("incumbent")
    if dense and found:
        name = "pruned" if summary.get("method") else "incumbent"
        # The machine may run at another speed by now: the share of dense says what the cut has gained.
        shares = [formats.share(found[key] / dense[key]) for key in ("predicted", "measured")]
        text += (
            f" Measured at the end: dense {shown(dense['measured'])} (predicted {shown(dense['predicted'])}), {name} "
            f"{shown(found['measured'])} (predicted {shown(found['predicted'])}); {name} against dense {shares[1]} "
            f"(predicted {shares[0]})."
        )
    noisy = [] if latency["steady"] else [_note("The machine was busy while latency was measured: mind the errors.")]
    return [Text(text, style="dim"), *noisy]


def _kept(value: int | None, dense: int | None) -> str:
    return formats.share(value / dense if value is not None and dense else None)


def _verdict(summary: Summary) -> Text:
    """Says in a sentence what the search gained over uniform widths, and lost against the dense network."""
    incumbent, uniform, dense = (summary.get(name) or {} for name in ("incumbent", "uniform", "dense"))
    reached = incumbent.get("accuracy")
    if reached is None:
        return Text("The test set has not been touched yet: it is used once, at the end of a whole search.")
    method = summary.get("method")
    text = Text("The pruned network" if method else "The incumbent")
    if not method and incumbent.get("proposed_by"):
        text.append(f" (candidate {incumbent.get('id', '-')}, {incumbent['proposed_by']})")
    clauses = []
    if uniform.get("accuracy") is not None:
        clauses.append(f"{formats.points(reached - uniform['accuracy'])} points against uniform widths")
    if dense.get("accuracy") is not None:
        clauses.append(f"{formats.points(reached - dense['accuracy'])} points against the dense network")
    text.append(f": {', '.join(clauses)}." if clauses else f" reaches {formats.accuracy(reached)}.")
    return text


def _frozen(summary: Summary) -> Text:
    frozen = list(summary.get("frozen") or {})
    if not frozen:
        return Text("  No layer is frozen.", style="dim")
    names = ", ".join(formats.one_line(str(name)) for name in frozen[:4]) + (
        f" and {len(frozen) - 4} more" if len(frozen) > 4 else ""
    )
    whole = "1 layer stays" if len(frozen) == 1 else f"{len(frozen)} layers stay"
    return Text(f"  {whole} whole: {names} (`autoprune trace {_shown(summary, 'model')}` says why).", style="dim")


def _facts(summary: Summary) -> Text:
    if summary.get("method"):
        return _method_facts(summary["method"])
    failures = summary.get("failures", 0)
    workers = summary.get("workers")
    parts = [f"{summary.get('candidates', 0)} candidates by {summary.get('strategy', '-')}"]
    parts.append(f"{failures} failed" if failures else "none failed")
    parts.append(f"{formats.duration(summary.get('seconds'))} in all")
    if workers:
        busy = summary.get("utilisation")
        parts.append(f"{workers} worker{'s' if workers > 1 else ''}" + (f" {100 * busy:.0f} % busy" if busy else ""))
    if summary.get("hypervolume") is not None:
        parts.append(f"hypervolume {summary['hypervolume']:.4f}")
    parts.append(f"seed {summary.get('seed', '-')}")
    return Text(", ".join(parts) + ".", style="dim")


def _method_facts(method: Mapping[str, Any]) -> Text:
    """Says how a single method came to its channels."""
    numbers = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in method["facts"].items()
    )
    chosen = ", ".join([f"Channels by {method['name']} in {formats.duration(method['seconds'])}", *numbers])
    return Text(f"{chosen}; cut by {method['merge']}. {formats.one_line(method['source'])}.", style="dim")


def _note(note: str) -> Text:
    return Text.assemble(("Note: ", "yellow"), formats.one_line(note, limit=1000))
