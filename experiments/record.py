"""Runs experiment files and keeps their figures beside them; prints the README's table from the kept figures.

    python experiments/record.py run experiments/digits-resnet.toml --seeds 0 1 2
    python experiments/record.py table

A results file holds, per seed, what `summary.json` says of dense, uniform and incumbent, with commit, command,
hardware, versions and date.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_KEPT = (
    "model", "data", "budget", "scope", "strategy", "seed", "dense", "uniform", "incumbent", "candidates", "failures",
    "seconds", "search_seconds", "utilisation", "workers", "hypervolume", "reference_point", "finetune_epochs",
    "images",
)  # fmt: skip


def run(experiment: Path, seeds: list[int], extra: list[str]) -> Path:
    """Runs an experiment once a seed; returns the results file."""
    runs, versions = [], {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-m",
                "autoprune",
                "search",
                "--experiment",
                str(experiment),
                "--seed",
                str(seed),
            ]
            subprocess.run([*command, "--out", f"{folder}/run", *extra], check=True)
            summary = json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))
            runs.append({key: summary[key] for key in _KEPT})
            versions = summary["versions"]
    listed = " ".join(map(str, seeds))
    content = {
        "experiment": experiment.name,
        "command": f"python experiments/record.py run experiments/{experiment.name} --seeds {listed}",
        "options": extra,
        "commit": _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--", "autoprune") else ""),
        "date": date.today().isoformat(),
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "machine": platform.machine()},
        "versions": versions,
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{experiment.stem}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def table() -> str:
    """Returns the kept figures as a Markdown table; means over seeds, with the range where there are several."""
    lines = [
        "| network, data, budget | dense | | uniform | incumbent | kept FLOPs | seeds | search |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = content["runs"]
        first = runs[0]
        share = statistics.mean(item["incumbent"]["macs"] / item["dense"]["macs"] for item in runs)
        epochs = first["finetune_epochs"]
        stages = [("no training", "accuracy_before_finetune")] if epochs else [("no training", "accuracy")]
        stages += [(f"{epochs:g} epoch{'s' if epochs != 1 else ''}", "accuracy")] if epochs else []
        minutes = statistics.mean(item["search_seconds"] for item in runs) / 60
        for index, (label, key) in enumerate(stages):
            name = (
                f"[{first['model']}](experiments/{content['experiment']}), {first['data']}, {' '.join(first['budget'])}"
            )
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


def _percent(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f}"
    if len(values) == 1 or min(values) == max(values):
        return mean
    return f"{mean} ({100 * min(values):.2f} to {100 * max(values):.2f})"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run experiments and keep their figures")
    runner.add_argument("experiment", type=Path, nargs="+")
    runner.add_argument("--seeds", type=int, nargs="+", default=[0])
    runner.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="further options of autoprune search")
    commands.add_parser("table", help="print the table of all kept figures")
    given = parser.parse_args()
    if given.command == "table":
        print(table())
        return
    for experiment in given.experiment:
        print(run(experiment, given.seeds, given.options))


if __name__ == "__main__":
    main()
