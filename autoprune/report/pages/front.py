"""The page of the front: one file that needs neither network nor server and shows every candidate of a search."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.core.budget import Budget
from autoprune.core.cost import Cost
from autoprune.core.resources import RESOURCES
from autoprune.errors import BudgetError
from autoprune.report.files import atomic_write_text
from autoprune.report.pages.frame import filled, html_page
from autoprune.report.pages.front_script import SCRIPT
from autoprune.report.pages.front_style import FRONT_BODY, STYLE

_COLUMNS = (
    "id",
    "score",
    "accuracy",
    "macs",
    "params",
    "retained_flops",
    "retained_params",
    "fidelity",
    "level",
    "proposed_by",
    "front",
    "seconds",
)
#: Of rows whose structure other seeds measured, too (`records.repeats.with_ranges`).
_REPEATED = ("times", "low", "high")


def write_front_html(path: Path, data: Mapping[str, Any]) -> None:
    """Writes the interactive page of a search's candidates.

    Args:
        path: of the file.
        data: what `front_data` returns.

    Raises:
        RunError: the file cannot be written.
    """
    body = filled(FRONT_BODY, {"SCRIPT": SCRIPT, "DATA": embed(data), "LABELLED": 'aria-labelledby="title"'})
    atomic_write_text(path, html_page(data["title"], style=STYLE, body=body))


def front_data(
    rows: Sequence[Mapping[str, Any]],
    *,
    marks: Mapping[str, Mapping[str, Any]],
    budget: Sequence[str],
    dense_widths: Mapping[str, int],
    resource: str = "macs",
    title: str = "",
    run: str = "RUN",
    metric: str = "accuracy",
) -> dict[str, Any]:
    """Returns what the script of the page draws.

    Args:
        rows: of `records.rows.candidate_rows`, perhaps `records.repeats.with_ranges`.
        marks: `dense`, `uniform`, `incumbent` as in `summary.json` (`marks_of`); any may be missing.
        budget: as the user wrote it.
        dense_widths: {group: dense width}, in the order of the network.
        resource: what the front trades for accuracy.
        title: of the page, for example the model and the data.
        run: run folder to name in the pick command.
        metric: what people call the accuracy of this task.
    """
    budgets = _budgets(budget, marks.get("dense"))
    # Axes of their own: what has a budget, besides what every page shows.
    own = [budget["key"] for budget in budgets if rows and budget["key"] in rows[0]]
    columns = [
        *_COLUMNS,
        *(name for name in own if name not in _COLUMNS),
        *(_REPEATED if any("times" in row for row in rows) else ()),
    ]
    on_front = sum(bool(row["front"]) for row in rows)
    texts = " and ".join(budget)
    return {
        "title": title or f"Hold-out {metric} against cost",
        "subtitle": f"{len(rows)} candidates, {on_front} on the front" + (f", budget {texts}" if texts else ""),
        "run": shlex.quote(run),
        "metric": metric,
        "groups": list(dense_widths.items()),
        "columns": [*columns, "widths"],
        "rows": [_compact(row, columns, dense_widths) for row in rows],
        "marks": _marks(marks),
        "front": RESOURCES[resource].retained,
        "budgets": budgets,
    }


def marks_of(summary: Mapping[str, Any], repeats: Sequence[Mapping[str, Any]] = ()) -> dict[str, Mapping[str, Any]]:
    """Returns the networks of a `summary.json` that the page marks; of repeats, with the range of all of them."""
    return {
        name: {**summary[name], "holdout_range": _range(name, [summary, *repeats])}
        for name in ("dense", "uniform", "incumbent")
        if summary.get(name)
    }


def embed(data: object) -> str:
    """Returns JSON that may stand inside a `script` element, whatever strings it holds."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # `</script>` would end the element and `<!--` change how it is read; ASCII output has no U+2028 either.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _range(name: str, summaries: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Returns the least and the most hold-out accuracy of a network; None where one search alone tells of it."""
    known = [(summary.get(name) or {}).get("holdout_accuracy") for summary in summaries]
    values = [value for value in known if value is not None]
    return (min(values), max(values)) if len(values) > 1 else None


def _compact(row: Mapping[str, Any], columns: Sequence[str], dense_widths: Mapping[str, int]) -> list[Any]:
    values = [_short(row.get(name) if name in _REPEATED else row[name]) for name in columns]
    return [*values, [row["widths"].get(group, width) for group, width in dense_widths.items()]]


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _marks(marks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    dense = marks.get("dense") or {}
    found = []
    for name, network in marks.items():
        held_out = network.get("holdout_accuracy")
        shares = {
            resource.retained: network[key] / dense[key] if network.get(key) and dense.get(key) else None
            for key, resource in RESOURCES.items()
            if key in ("macs", "params") or key in dense
        }
        low, high = network.get("holdout_range") or (None, None)
        found.append(
            {
                "name": name,
                "id": network.get("id"),
                **({} if low is None else {"low": low, "high": high}),
                "accuracy": network.get("accuracy") if held_out is None else held_out,
                # Only dense may lack a hold-out accuracy; then say that its figure is another.
                "source": "test set" if held_out is None else "",
                **shares,
            }
        )
    return found


def _budgets(texts: Sequence[str], dense: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if not dense or not dense.get("macs") or not dense.get("params"):
        return []
    cost = Cost.recorded(dense)
    found = []
    for text in texts:
        try:
            limit = Budget.parse(text).resolve(cost)
        except BudgetError:  # a summary of another version: the page is worth having without its line
            continue
        whole = cost.of(limit.resource)
        low, high = limit.floor / whole, limit.ceiling / whole
        resource = RESOURCES[limit.resource]
        found.append(
            {
                "text": limit.text,
                "resource": resource.name,
                "key": resource.retained,
                "noun": resource.noun,
                "low": low,
                "high": high,
            }
        )
    return found
