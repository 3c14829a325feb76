"""Reports as tables on a terminal, and as plain aligned lines elsewhere."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Report = Mapping[str, Any]
Rows = Sequence[Sequence[str]]

#: Epochs of a training that are listed: more would push its result off the screen.
_EPOCHS_SHOWN = 12


def show_summary(summary: Report) -> None:
    """Prints the result of a search."""
    from autoprune.report.screens.next_steps import after_search

    _print_summary(summary, after_search(summary, Path(summary["folder"])) if summary.get("folder") else [])


def show_prune(summary: Report) -> None:
    """Prints the result of a single method."""
    from autoprune.report.screens.next_steps import after_prune

    _print_summary(summary, after_prune(Path(summary["folder"])))


def _print_summary(summary: Report, steps: Sequence[tuple[str, str]]) -> None:
    from autoprune.report.screens.next_steps import step_lines
    from autoprune.report.screens.summary import plain_summary, render_summary

    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(render_summary(dict(summary)))
    else:
        print(plain_summary(dict(summary)), end="")
    # Not through rich, which would break long lines: what stands here is copied.
    print("\n".join(step_lines(steps)))


def show_trace(report: Report) -> None:
    """Prints the groups, layers and frozen layers of a traced network."""
    _print_cost("dense network", report["dense"], shape=report.get("input_shape", ()))
    groups = report["groups"]
    show_table(
        f"{len(groups)} prunable groups",
        ("group", "width", "least", "coupled", "layers"),
        [
            (
                group["name"],
                str(group["width"]),
                str(group["min_width"]),
                "yes" if group["coupled"] else "",
                _layers(group.get("layers", ())),
            )
            for group in groups
        ],
    )
    _show_layers(report.get("layers", ()))
    heuristics = report.get("heuristics") or {}
    if heuristics:
        show_table(
            "widths that each heuristic would keep within the budget",
            ("group", "dense", *heuristics),
            [
                (
                    group["name"],
                    str(group["width"]),
                    *(str(kept.get(group["name"], "")) for kept in heuristics.values()),
                )
                for group in groups
            ],
        )
    frozen = report.get("frozen") or {}
    if frozen:
        show_table("never cut", ("layer", "why"), list(frozen.items()))
    _print_verified(report.get("verified") or {})
    for note in report.get("notes", ()):
        print(f"\nNote: {note}")
    if "written" in report:
        file = shlex.quote(report["written"])
        print(f"\nWrote {file}. Edit it, then search with --search-space {file}")


def show_cost(report: Report) -> None:
    """Prints what a network with other widths costs."""
    _print_cost("network", report, shape=report.get("input_shape", ()))
    for resource in ("flops", "params"):
        share = report.get(f"retained_{resource}")
        if share is not None:
            print(f"  {100 * share:.2f} % of the dense {resource}")
    if "conventions" in report:
        dense = report["dense_conventions"]
        rows = [
            (name, f"{count:,}", f"{dense[name]:,}", f"{100 * (1 - count / dense[name]):.2f}")
            for name, count in report["conventions"].items()
        ]
        show_table("counting conventions", ("convention", "network", "dense", "% removed"), rows)
    show_table("widths", ("group", "width"), [(name, str(width)) for name, width in report["widths"].items()])
    _show_layers(report.get("layers", ()))


def show_evaluation(report: Report) -> None:
    """Prints the scores of a saved network."""
    print(f"{report['split']} {_metric(report)} {100 * report['accuracy']:.2f} % on {report['images']:,} images")
    _print_further(report)
    print(f"  loss {report['loss']:.4f}")
    _print_cost("network", report)


def show_pick(report: Report) -> None:
    """Prints what became of a picked candidate, where it is, and how to load and to serve it."""
    from autoprune.report.screens.next_steps import after_pick, step_lines

    print(f"candidate {report['id']} ({report['proposed_by']})")
    before = report["accuracy_before_finetune"]
    if before is not None:
        print(f"  test {_metric(report)} {100 * before:.2f} % before finetuning")
    print(
        f"  test {_metric(report)} {100 * report['accuracy']:.2f} %, hold-out {100 * report['holdout_accuracy']:.2f} %"
    )
    _print_cost("network", report)
    logged = report["mlflow"]
    print(f"\nSaved in {report['directory']}")
    if logged:
        named = f", version {logged['version']} of {logged['name']}" if logged["name"] else ""
        print(f"In MLflow: {logged['model_uri']}{named}")
    print("\n".join(step_lines(after_pick(report))))


def show_training(report: Report) -> None:
    """Prints what a training reached, epoch by epoch where they are few, and what to do with it."""
    history, best = report["history"], report["best"]
    shown = history if len(history) <= _EPOCHS_SHOWN else [*history[:2], *history[-(_EPOCHS_SHOWN - 2) :]]
    rows = [
        (
            f"{row['epoch']:g}",
            f"{row['learning_rate']:.4g}",
            f"{row['train_loss']:.4f}",
            f"{100 * row['holdout_accuracy']:.2f}",
        )
        for row in shown
    ]
    show_table(f"{report['model']} on {report['data']}", ("epoch", "rate", "loss", "hold-out %"), rows)
    from autoprune.report.formats import epochs

    if report.get("accuracy_before") is not None:
        print(f"test {_metric(report)} {100 * report['accuracy_before']:.2f} % before")
    print(f"test {_metric(report)} {100 * report['accuracy']:.2f} % after {epochs(report['epochs'])}")
    _print_further(report)
    print(
        f"  hold-out {100 * report['holdout_accuracy']:.2f} %, best {100 * best['holdout_accuracy']:.2f} % "
        f"after epoch {best['epoch']:g} (the last epoch is kept)"
    )
    folder = Path(report["folder"])
    if report["kind"] == "train":
        file = shlex.quote(str(folder / "weights.safetensors"))
        print(f"prune it with: autoprune search --model {report['model']} --weights {file} --data {report['data']}")
    else:
        print(f'load it with: autoprune.load("{folder}")')


def show_table(title: str, headers: Sequence[str], rows: Rows) -> None:
    """Prints a table: drawn on a terminal, aligned lines elsewhere. Columns of numbers are flushed right.

    A terminal that is too narrow for it gets it on its side where that fits: folded, many columns become unreadable.
    """
    right = [all(_is_number(row[column]) for row in rows) for column in range(len(headers))]
    if not sys.stdout.isatty():
        print(f"\n{title}")
        widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]
        for row in (headers, *rows):
            cells = zip(row, widths, right, strict=True)
            print(
                "  "
                + "  ".join(f"{text:>{width}}" if end else f"{text:<{width}}" for text, width, end in cells).rstrip()
            )
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    turned = [(header, *(row[column] for row in rows)) for column, header in enumerate(headers)]
    if _table_width((headers, *rows)) > console.width >= _table_width(turned):
        (headers, *rows), right = turned, [False] * (1 + len(rows))
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for header, end in zip(headers, right, strict=True):
        table.add_column(header, justify="right" if end else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a layer may be called `[bold]`
    console.print(table)


def _table_width(lines: Rows) -> int:
    """Returns the characters of a line of a table that `show_table` draws: two on both sides of a gap."""
    return sum(max(map(len, column)) + 3 for column in zip(*lines, strict=True)) - 1


def _metric(report: Report) -> str:
    return str(report.get("metric", "accuracy"))


def _print_further(report: Report) -> None:
    """Prints what else was measured on the test set."""
    for name, value in (report.get("metrics") or {}).items():
        if name != _metric(report):
            print(f"  {name} {100 * value:.2f} %")


def _print_cost(title: str, cost: Report, *, shape: Sequence[int] = ()) -> None:
    flops = cost.get("flops", 2 * cost["macs"])
    size = " x ".join(str(length) for length in shape)
    print(
        f"{title}: {cost['macs']:,} MACs, {flops:,} FLOPs, {cost['params']:,} parameters"
        f"{size and f', for one image of {size}'}"
    )


def _show_layers(layers: Sequence[Report]) -> None:
    if layers:
        rows = [
            (layer["name"] or "(parameters of its own)", f"{layer['macs']:,}", f"{layer['params']:,}")
            for layer in layers
        ]
        show_table("cost of each layer", ("layer", "MACs", "parameters"), rows)


def _layers(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def _print_verified(verified: Report) -> None:
    deviation, equal = verified.get("mask_equivalence"), verified.get("cost_equality")
    if deviation is not None:
        print(f"\ncutting equals masking: largest difference of the outputs {deviation:.2g}")
    if equal is not None:
        print(f"computed costs equal counted costs: {'yes' if equal else 'NO'}")


def _is_number(text: str) -> bool:
    return not text or text.replace(",", "").isdigit()
