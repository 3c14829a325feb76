"""Drivers that are killed and disks that are full: nothing is lost, nothing is done twice, and the end is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("driver.py")
REFUSED, STOPPED = 3, 130
#: What a search that was harmed may end with.
CODES = {"kill": (-signal.SIGKILL,), "full": (REFUSED, 0), "limit": (REFUSED, 0), "ctrl-c": (STOPPED, 0), "clock": (0,)}
NAMES = {
    "kill before": "driver killed before a write, sync or rename",
    "kill within": "driver killed in the middle of a write",
    "kill after": "driver killed after a write, sync or rename",
    "full": "disk full",
    "limit": "no file may grow (RLIMIT_FSIZE)",
    "ctrl-c": "Ctrl-C once",
    "ctrl-c twice": "Ctrl-C twice",
    "clock": "clock set back and forth by days",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the searches are forked")
@pytest.mark.parametrize(
    ("count", "seed"),
    [
        pytest.param(8, 0, id="one of each"),
        pytest.param(64, 1, id="all", marks=[pytest.mark.faults, pytest.mark.slow]),
    ],
)
def test_a_harmed_search_resumes_to_the_ledger_and_the_summary_of_an_undisturbed_one(tmp_path, count, seed, tally):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path), str(count), str(seed)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == count
    for each in found:
        assert each["resumed"] == 0, (each, done.stderr)
        assert (each["lost"], each["twice"], each["left over"]) == (0, 0, []), each
        assert each["same ledger"], each
        assert each["same summary"], each
        # A disk that is full only where the folder is synced, or a limit that is wide enough, does no harm.
        allowed = next(codes for name, codes in CODES.items() if each["harm"].startswith(name))
        assert each["code"] in allowed, (each, done.stderr)
        tally(NAMES[each["harm"]], "same ledger, same summary", lost=each["lost"], twice=each["twice"])
    if count > len(found) // 2 > 4:
        assert any(each["told before"] for each in found)
