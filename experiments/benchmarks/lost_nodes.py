"""A search on three Ray nodes whose driver is killed twice and one node once, against one that is left in peace.

Run from the repository's root; every node lives in a network namespace of its own where the machine allows it:

    python -m experiments.benchmarks.lost_nodes --candidates 60
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import write
from experiments.benchmarks.local_cluster import LocalCluster, descendants

#: Random proposals do not depend on the order in which workers finish, so that two searches ask for the same.
_OPTIONS = ("--strategy", "random", "--finetune-epochs", "0")
_PATIENCE = 900.0

Harm = tuple[int, str]


def searched(
    cluster: LocalCluster, out: Path, start: Sequence[str], resume: Sequence[str], *, harms: Sequence[Harm] = ()
) -> dict[str, Any]:
    """Runs a search on a cluster to its end and returns what became of it.

    Args:
        cluster: where it runs; the driver is on the head.
        out: the run folder.
        start: the command that starts it.
        resume: the command that goes on with it.
        harms: (evaluations told, `driver`, `worker`, `raylet` or `node`): what is killed when, in order; of the nodes
            the last one is hit.
    """
    began = time.monotonic()
    kept: list[list[str]] = []
    driver = _driver(cluster, start)
    for after, what in harms:
        _wait(out, driver, after)
        if what == "driver":
            _kill_all(driver)
            kept.append(lines(out))
            driver = _driver(cluster, resume)
        else:
            kept.append(lines(out))
            harm(cluster, what)
    output, _ = driver.communicate(timeout=_PATIENCE)
    if driver.returncode:
        raise RuntimeError(f"The search ended with {driver.returncode}: {output.decode()[-2000:]}")
    end, count = lines(out), Counter(told(out))
    return {
        "told_at_harms": [sum('"event":"told"' in line for line in each) for each in kept],
        "lost": sum(line not in set(end) for each in kept for line in each),
        "twice": sum(times > 1 for times in count.values()),
        "failures": sum('"failed":' in line for line in end),
        "told": sorted(count),
        "seconds": round(time.monotonic() - began, 1),
        "output": output.decode(),
    }


def harm(cluster: LocalCluster, what: str) -> None:
    """Kills a worker, the raylet of the last node, or all of that node."""
    last = max(cluster.nodes)
    if what == "node":
        cluster.kill(last)
    elif what == "raylet":
        cluster.kill_raylet(last)
    elif what == "worker":
        # It may be on its way: one that died before can have been started anew on any node.
        deadline = time.monotonic() + 60
        while not (workers := _evaluators(cluster)) and time.monotonic() < deadline:
            time.sleep(0.2)
        os.kill(workers[0], signal.SIGKILL)
    else:
        raise ValueError(f"Cannot kill a {what}.")


def _evaluators(cluster: LocalCluster) -> list[int]:
    """Returns the processes of evaluators on all nodes but the head.

    Ray names an actor's process by the method it runs, and by the actor while it waits.
    """
    pids = [pid for node in cluster.nodes if node for pid in cluster.processes(node)]
    return [pid for pid in pids if _title(pid).startswith((b"ray::Worker", b"ray::autoprune-"))]


def lines(out: Path) -> list[str]:
    """Returns the whole lines of a ledger."""
    path = out / "ledger.jsonl"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def told(out: Path) -> list[tuple[int, int]]:
    """Returns (candidate, rung) of every outcome in a ledger, in order."""
    events = (json.loads(line) for line in lines(out))
    return [(event["id"], event["level"]) for event in events if event["event"] == "told"]


def front(out: Path) -> list[dict[str, str]]:
    """Returns candidate, cost and accuracy of every point on the front."""
    with (out / "front.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["front"].lower() in ("true", "1")]
    return [{name: row[name] for name in ("id", "macs", "accuracy")} for row in rows]


def _driver(cluster: LocalCluster, command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        cluster.command([sys.executable, *command]),
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _kill_all(driver: subprocess.Popen[bytes]) -> None:
    for pid in [*descendants(driver.pid), driver.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    driver.communicate()


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _wait(out: Path, driver: subprocess.Popen[bytes], count: int) -> None:
    """Waits until so many evaluations have been told, or the driver has ended."""
    deadline = time.monotonic() + _PATIENCE
    while len(told(out)) < count and driver.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nothing came within {_PATIENCE:g} s.")
        time.sleep(0.05)


def _by_command_line(cluster: LocalCluster, out: Path, count: int, harms: Sequence[Harm] = ()) -> dict[str, Any]:
    command = ("-m", "autoprune", "search", "--ray-address", cluster.address, "--no-mlflow")
    start = (*command, "--candidates", str(count), "--out", str(out), *_OPTIONS)
    found = searched(cluster, out, start, (*command, "--resume", str(out)), harms=harms)
    summary = json.loads((out / "summary.json").read_text())
    del found["output"]
    return {
        **found,
        "front": front(out),
        "incumbent": summary["incumbent"]["id"],
        "workers": summary["workers"],
        "utilisation": round(summary["utilisation"], 3),
        "overhead_seconds": round(summary["overhead_seconds"], 3),
    }


def main() -> None:
    """Runs both searches and writes their fronts beside each other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=60)
    count = parser.parse_args().candidates
    harms = ((count // 4, "driver"), (count // 2, "node"), (3 * count // 4, "driver"))
    with tempfile.TemporaryDirectory() as folder, LocalCluster(3) as cluster:
        whole, harmed = Path(folder) / "whole", Path(folder) / "harmed"
        undisturbed = _by_command_line(cluster, whole, count)
        disturbed = _by_command_line(cluster, harmed, count, harms)
        namespaces = cluster.namespaces
    only = {
        name: [list(key) for key in sorted(set(mine.pop("told")) - set(other))]
        for name, mine, other in (
            ("undisturbed", undisturbed, disturbed["told"]),
            ("disturbed", disturbed, undisturbed["told"]),
        )
    }
    figures = {
        "candidates": count,
        "nodes": 3,
        "network_namespaces": namespaces,
        "harms": [list(each) for each in harms],
        "same_front": undisturbed["front"] == disturbed["front"],
        "same_incumbent": undisturbed["incumbent"] == disturbed["incumbent"],
        "evaluated_in_one_alone": only,
        "undisturbed": undisturbed,
        "disturbed": disturbed,
    }
    write("lost_nodes", figures, packages=("ray", "torch", "numpy"))


if __name__ == "__main__":
    main()
