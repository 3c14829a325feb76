"""The command; see the package."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from autoprune.core.files import atomic_write_text
from autoprune.errors import AutopruneError
from experiments.benchmarks.common import RESULTS, circumstances
from experiments.benchmarks.peers.contestants import OURS
from experiments.benchmarks.peers.estimate import estimated
from experiments.benchmarks.peers.figures import figures_of
from experiments.benchmarks.peers.pages import long_table, picture, short_table
from experiments.benchmarks.peers.plan import PLAN, Network, load_plan
from experiments.benchmarks.peers.records import read_records, run_plan

_PACKAGES = ("torch", "torchvision", "numpy", "optuna", "torch-pruning", "nvidia-modelopt")


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.peers", description=__doc__)
    parser.add_argument("plan_file", nargs="?", type=Path, default=PLAN, help="what to run (TOML)")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="folder of the records")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of peers.json, peers.md and peers.svg")
    parser.add_argument("--network", action="append", help="only this network of the plan; repeatable")
    parser.add_argument("--budget", action="append", help="only this budget of the plan; repeatable")
    parser.add_argument("--method", action="append", help="only this method of the plan; repeatable")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="say how long it will take, and run nothing")
    what.add_argument("--summary", action="store_true", help="write the results from the records there are")
    what.add_argument("--table", action="store_true", help="print the table of the README from peers.json")
    given = parser.parse_args(arguments)
    try:
        if given.table:
            sys.stdout.write(table_of(given.results / "peers.json") + "\n")
            return 0
        networks = _chosen(load_plan(given.plan_file), given)
        if given.plan:
            estimated(networks, given.out, _say)
            return 0
        torch.set_num_threads(1)
        if not given.summary:
            run_plan(networks, given.out, _say)
        write_results(load_plan(given.plan_file), given.out, given.results, plan=given.plan_file.name)
    except AutopruneError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def table_of(path: Path) -> str:
    """Returns the table of the README."""
    return short_table(json.loads(path.read_text(encoding="utf-8"))["networks"])


def write_results(networks: tuple[Network, ...], folder: Path, results: Path, *, plan: str) -> None:
    """Writes figures, tables and picture."""
    records = read_records(folder)
    figures = figures_of(networks, records)
    installed = tuple(name for name in _PACKAGES if _is_installed(name))
    content: dict[str, Any] = {
        "benchmark": "peers",
        **circumstances(installed),
        "command": "python -m experiments.benchmarks.peers",
        "plan": plan,
        "commits_of_records": sorted({str(record["commit"]) for record in records}),
        "records": len(records),
        "networks": figures,
    }
    results.mkdir(parents=True, exist_ok=True)
    atomic_write_text(results / "peers.json", json.dumps(content, indent=1) + "\n")
    atomic_write_text(results / "peers.md", long_table(figures) + "\n")
    pictured = [(one, budget) for one in figures for budget, rows in one["budgets"].items() if rows.get(OURS)]
    if pictured:
        # The one that says most: by its test images, then by the methods that have run on it.
        one, budget = max(pictured, key=lambda pair: (pair[0]["images"]["test"], len(pair[0]["budgets"][pair[1]])))
        atomic_write_text(results / "peers.svg", picture(one, budget).file())
    _say(short_table(figures))


def _chosen(networks: tuple[Network, ...], given: argparse.Namespace) -> tuple[Network, ...]:
    """Returns the part of a plan that was asked for."""

    def wanted(names: list[str] | None, name: str) -> bool:
        return names is None or name in names

    return tuple(
        replace(
            one,
            budgets=tuple(budget for budget in one.budgets if wanted(given.budget, budget)),
            entries={name: entry for name, entry in one.entries.items() if wanted(given.method, name)},
        )
        for one in networks
        if wanted(given.network, one.name)
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
