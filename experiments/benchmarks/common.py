"""What every benchmark records beside its figures: commit, hardware, load, date, versions."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
#: All that figures depend on, but not what earlier runs have written.
_CODE = (":/autoprune", ":/experiments", ":/tests", ":(top,exclude,glob)experiments/**/results/**")


def milliseconds(runs: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, dict[str, float]]:
    """Returns {name: {`best`, `median`}}, wall times in milliseconds.

    The calls take turns, so that what else the machine does falls on all of them alike.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: {"best": round(min(found), 3), "median": round(median(found), 3)} for name, found in times.items()}


def write(name: str, figures: dict[str, Any], *, packages: tuple[str, ...]) -> None:
    """Prints the figures with their circumstances and writes them to results/NAME.json."""
    text = json.dumps({"benchmark": name, **circumstances(packages), "figures": figures}, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


def circumstances(packages: tuple[str, ...]) -> dict[str, Any]:
    """Returns date, commit, hardware, load and versions."""
    # Imported here: torch must not be loaded into what is measured without it.
    from autoprune.devices import processor
    from autoprune.searching.experiments.provenance import commit

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(*_CODE),
        "hardware": {
            "cpu": processor(),
            "cores": os.cpu_count(),
            "load_average": [round(load, 2) for load in os.getloadavg()],
            "torch_threads": 1,
        },
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in packages},
        },
    }
