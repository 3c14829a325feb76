"""A real Ray cluster of several nodes on one machine: a head and further nodes, each with processes of its own.

Where the machine allows it (root, Linux), every node lives in a network namespace with its own address, joined by a
bridge; elsewhere they share this machine's address. Whatever is started here is ended by its process id.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_STORE_BYTES = 80 * 2**20
_JOBS_PORT = 8265
_START_SECONDS, _ATTEMPTS = 170, 2
#: A node that was killed is to be missed within seconds; Ray's own settings take half a minute.
_HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 5,
}


class LocalCluster:
    """A head and further nodes until it is closed."""

    def __init__(
        self, nodes: int = 3, *, cpus: int = 1, namespaces: bool | None = None, dashboard: bool = False
    ) -> None:
        """Starts the nodes, the head first.

        Args:
            nodes: how many, the head counted.
            cpus: of each.
            namespaces: whether each has a network namespace; None where the machine allows it.
            dashboard: whether the head takes jobs at `jobs`; needs `ray[default]`.
        """
        self._tag = f"ap{secrets.token_hex(2)}"
        self._folder = Path(tempfile.mkdtemp(prefix="ap-"))
        self._cpus = cpus
        self._dashboard = dashboard
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._count = 0
        self.namespaces = False
        try:
            self.namespaces = self._bridged() if namespaces is None else namespaces and self._bridged()
            self.port = 6379 if self.namespaces else _free_port()
            # One after another: nodes of one machine share Ray's folder and would take each other's sockets.
            for _ in range(nodes):
                self.add()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return f"{self._address(0)}:{self.port}"

    @property
    def jobs(self) -> str:
        """Address that `ray job submit` takes, on the head."""
        return f"http://127.0.0.1:{_JOBS_PORT if self.namespaces else self.port + 1}"

    @property
    def environment(self) -> dict[str, str]:
        """What the processes of the cluster, and drivers that join it, have in their environment."""
        return {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token(),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": str(_START_SECONDS),  # on a busy machine the usual 30 s are too few
            "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }

    @property
    def nodes(self) -> tuple[int, ...]:
        """The numbers of the nodes that run."""
        return tuple(self._processes)

    def processes(self, node: int) -> list[int]:
        """Returns the processes of a node."""
        return descendants(self._processes[node].pid)

    def add(self, *, cpus: int | None = None, gpus: int = 0) -> int:
        """Starts one more node and returns its number, 0 for the head.

        Args:
            cpus: of the node, None for as many as the others have.
            gpus: that it is to say it has; nothing but Ray's bookkeeping knows of them.
        """
        index = self._count
        self._count += 1
        if self.namespaces:
            self._give_address(index)
        options = ["--num-cpus", str(self._cpus if cpus is None else cpus), "--num-gpus", str(gpus)]
        options += ["--object-store-memory", str(_STORE_BYTES), "--disable-usage-stats"]
        options += ["--node-ip-address", self._address(index), "--min-worker-port", "0", "--max-worker-port", "0"]
        if index == 0:
            options += ["--head", "--port", str(self.port), "--include-dashboard", str(self._dashboard).lower()]
            options += ["--dashboard-host", "127.0.0.1", "--dashboard-port", self.jobs.rpartition(":")[2]]
            options += ["--system-config", json.dumps(_HEALTH), "--temp-dir", str(self._folder / "ray")]
        else:
            options += ["--address", self.address]
        # On a machine with far more work than cores a raylet now and then never answers; the next one does.
        for _ in range(_ATTEMPTS):
            self._start(index, options)
            if self._started(index):
                return index
            self.kill(index)
        said = (self._folder / f"node-{index}.log").read_text(errors="replace")
        raise RuntimeError(f"Node {index} did not start in {_ATTEMPTS} attempts:\n{said[-2000:]}")

    def command(self, command: Sequence[str], *, node: int = 0) -> list[str]:
        """Returns a command as it is to be run on a node."""
        return ["ip", "netns", "exec", f"{self._tag}n{node}", *command] if self.namespaces else list(command)

    def kill(self, node: int) -> None:
        """Kills all processes of a node at once, as a power cut would."""
        process = self._processes.pop(node)
        for pid in [process.pid, *descendants(process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def kill_raylet(self, node: int) -> None:
        """Kills the process of a node that starts and feeds its workers."""
        for pid in descendants(self._processes[node].pid):
            if Path(f"/proc/{pid}/comm").read_text().startswith("raylet"):
                os.kill(pid, signal.SIGKILL)
                return
        raise RuntimeError(f"Node {node} has no raylet.")

    def close(self) -> None:
        """Ends everything that was started."""
        for node in list(self._processes):
            self.kill(node)
        for index in range(self._count if self.namespaces else 0):
            _ip("netns", "del", f"{self._tag}n{index}")
        if self.namespaces:
            _ip("link", "del", f"{self._tag}b")
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _token(self) -> str:
        return f"{self._tag:0<32}"

    def _address(self, index: int) -> str:
        return (
            f"10.{77 + int(self._tag[2:4], 16) % 100}.{int(self._tag[4:6], 16)}.{index + 1}"
            if self.namespaces
            else _own()
        )

    def _bridged(self) -> bool:
        if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        bridge = f"{self._tag}b"
        return _ip("link", "add", bridge, "type", "bridge") and _ip("link", "set", bridge, "up")

    def _give_address(self, index: int) -> None:
        name, inner, outer = f"{self._tag}n{index}", f"{self._tag}i{index}", f"{self._tag}o{index}"
        steps: list[Sequence[str]] = [
            ("netns", "add", name),
            ("link", "add", outer, "type", "veth", "peer", "name", inner),
            ("link", "set", outer, "master", f"{self._tag}b", "up"),
            ("link", "set", inner, "netns", name),
            ("-n", name, "addr", "add", f"{self._address(index)}/24", "dev", inner),
            ("-n", name, "link", "set", inner, "up"),
            ("-n", name, "link", "set", "lo", "up"),
            ("-n", name, "route", "add", "default", "dev", inner),
        ]
        for step in steps:
            if not _ip(*step):
                raise RuntimeError(f"ip {' '.join(step)} failed.")

    def _start(self, index: int, options: Sequence[str]) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--block"]
        with (self._folder / f"node-{index}.log").open("wb") as log:
            self._processes[index] = subprocess.Popen(
                self.command(command, node=index),
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _started(self, index: int) -> bool:
        """Waits until a node says that it runs; returns whether it does."""
        log = self._folder / f"node-{index}.log"
        deadline = time.monotonic() + _START_SECONDS
        while self._processes[index].poll() is None and time.monotonic() < deadline:
            if b"Ray runtime started" in log.read_bytes():
                return True
            time.sleep(0.2)
        return False


def descendants(pid: int) -> list[int]:
    """Returns the processes below one, those nearest to it first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            # The name, in brackets, may hold blanks.
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found[1:]


def run(command: Sequence[str], cluster: LocalCluster, **others: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command on the head."""
    environment: Mapping[str, str] = {**cluster.environment, **others.pop("env", {})}
    return subprocess.run(
        cluster.command(command), env=environment, text=True, capture_output=True, check=False, **others
    )


def _ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _own() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("8.8.8.8", 80))  # sends nothing: it asks which address would be used
        return str(probe.getsockname()[0])
    return "127.0.0.1"
