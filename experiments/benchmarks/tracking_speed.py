"""What logging a candidate costs: in SQLite, on an MLflow server, and on one that takes two seconds for every answer.

Figures a candidate: `waits_us`, what the search waits for; `thread_ms`, how long the background thread is at it;
`cpu_ms`, processor time of this process, which it takes from a search that uses every core. Run from the repository's
root:

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.tracking_speed
"""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from autoprune.core.candidate import Candidate, Evaluation
from autoprune.testing.landscape import Landscape, resnet_landscape
from autoprune.tracking.mlflow_tracker import MlflowTracker
from autoprune.tracking.ui import ui_command, ui_environment
from autoprune.tracking.uris import default_store
from experiments.benchmarks.common import write

CANDIDATES = 100
SLOW_SECONDS = 2.0


def outcomes(landscape: Landscape, count: int) -> list[Evaluation]:
    """Returns evaluations of random structures of a ResNet-56: 27 groups."""
    rng = np.random.default_rng(0)
    found = []
    for number, structure in enumerate(landscape.space.sample(count, rng)):
        cost = landscape.space.cost(structure)
        found.append(landscape.evaluate(Candidate(number, structure, cost, landscape.ladder.top, number, "random")))
    return found


def logged(uri: str, *, count: int, seconds: float) -> dict[str, float | int]:
    """Returns what logging `count` candidates cost; the store is given `seconds` to finish."""
    landscape = resnet_landscape(seed=0)
    told = outcomes(landscape, count)
    tracker = MlflowTracker(
        tracking_uri=uri,
        experiment="autoprune benchmark",
        run_name="a search",
        run_uuid=f"benchmark-{time.time_ns()}",
        dense_cost=landscape.space.cost_model.dense,
        groups=landscape.space.groups,
    )
    # The store is opened, and migrated, once a search: that is no cost of a candidate.
    tracker.location(seconds=300.0 if seconds > 60 else 0.0)
    waits, wall, cpu = [], time.perf_counter(), time.process_time()
    for outcome in told:
        start = time.perf_counter()
        tracker.told(outcome, finished=True)
        waits.append(time.perf_counter() - start)
    complaint = tracker.close({}, seconds=seconds)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "candidates": count,
        "waits_us": round(1e6 * median(waits), 1),
        "longest_wait_us": round(1e6 * max(waits), 1),
        "thread_ms": round(1e3 * wall / count, 1),
        "cpu_ms": round(1e3 * cpu / count, 1),
        "complete": int(complaint is None),
    }


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Yields the address of an MLflow server on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = default_store(folder)
    command = ui_command(store, port=port)
    environment = {**os.environ, **ui_environment(store)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield address
        finally:
            os.killpg(process.pid, 15)


@contextmanager
def slow_server() -> Iterator[str]:
    """Yields the address of a server that thinks for two seconds, and then knows nothing."""

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(SLOW_SECONDS)
            self.send_error(503)

        do_POST = do_GET  # noqa: N815 - the name that the base class looks for

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as listening:
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()


def main() -> None:
    """Measures and writes the results file."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        figures = {"sqlite": logged(default_store(folder), count=CANDIDATES, seconds=3600.0)}
        with server(folder) as address:
            figures["http_server"] = logged(address, count=CANDIDATES, seconds=3600.0)
        with slow_server() as address:
            figures["slow_server"] = logged(address, count=CANDIDATES, seconds=5.0)
    write("tracking_speed", {"network": "ResNet-56, 27 groups", **figures}, packages=("mlflow", "numpy"))


if __name__ == "__main__":
    main()
