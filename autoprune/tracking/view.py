"""The charts that MLflow's experiment page shows without any setting up.

MLflow keeps a shared view of the run list in an experiment tag `mlflow.sharedViewState.<id>`. The format is internal
to its web page, so it is written only for the versions it was tried with; on others the plain run list opens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

#: (major, minor) of the MLflow versions whose page was seen to open the view.
TRIED_VERSIONS = frozenset({(3, 17)})
#: Longest value of an experiment tag that the server takes.
_LONGEST_TAG = 20_000
_MOST_AXES = 30
_SECTION = "autoprune-front"


def is_tried(version: str) -> bool:
    """Returns whether the view was tried with this version of MLflow, for example `3.17.2`."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return major.isdigit() and minor.isdigit() and (int(major), int(minor)) in TRIED_VERSIONS


def view_id(run_id: str) -> str:
    """Returns the id of the view that belongs to a search's parent run."""
    return f"autoprune-{run_id[:12]}"


def view_tag(
    run_id: str, *, name: str, ratios: Sequence[str], metric: str, cost: str, now: int
) -> tuple[str, str] | None:
    """Returns the experiment tag (key, value) that presets the view of one search, or None if it would be too long.

    Args:
        run_id: the search's parent run, whose children are shown.
        name: of the search, shown in the list of views.
        ratios: parameter names of the retain ratios; at most 30, evenly spread, become axes.
        metric: what people call the accuracy of the task.
        cost: the metric that the front trades for it, for example `retained_flops`.
        now: milliseconds since 1970.
    """
    state = json.dumps(_state(run_id, _spread(ratios), metric, cost))
    title = f"Front of {name}"
    value = json.dumps({"name": title, "createdAt": now, "updatedAt": now, "state": state})
    return (f"mlflow.sharedViewState.{view_id(run_id)}", value) if len(value) <= _LONGEST_TAG else None


def _spread(names: Sequence[str]) -> list[str]:
    if len(names) <= _MOST_AXES:
        return list(names)
    return [names[round(i * (len(names) - 1) / (_MOST_AXES - 1))] for i in range(_MOST_AXES)]


def _state(run_id: str, ratios: Sequence[str], metric: str, cost: str) -> dict[str, Any]:
    # The front's own cost first; no chart and no column twice.
    costs = list(dict.fromkeys((cost, "retained_flops", "retained_params")))
    return {
        "searchFilter": f"tags.\"autoprune.role\" = 'candidate' AND tags.\"mlflow.parentRunId\" = '{run_id}'",
        # The page loads a hundred runs: the front must be among them, and after it the newest.
        "orderByKey": "tags.`front`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            "metrics.`accuracy`",
            *(f"metrics.`{one}`" for one in costs),
            "tags.`front`",
            "tags.`strategy`",
            "tags.`fidelity`",
        ],
        "compareRunCharts": [
            *(_scatter(one) for one in costs),
            {
                **_chart("PARALLEL", "ratios"),
                "selectedParams": list(ratios),
                "selectedMetrics": [cost, "accuracy"],
                "showAllRuns": True,
            },
        ],
        "compareRunSections": [
            {
                "uuid": _SECTION,
                "name": f"Hold-out {metric} against cost",
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
                "columns": 2,
                "cardHeight": 400,
            }
        ],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "SHOWALL",
        "runsVisibilityMap": {},
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": None,
    }


def _chart(kind: str, key: str) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"autoprune-{key}",
        "runsCountToCompare": 100,
        "metricSectionId": _SECTION,
        "deleted": False,
        "isGenerated": False,
    }


def _scatter(x: str) -> dict[str, Any]:
    axes = {"xaxis": {"type": "METRIC", "key": x}, "yaxis": {"type": "METRIC", "key": "accuracy"}}
    return {**_chart("SCATTER", x), **axes}
