"""With which commit, versions and hardware figures were measured: what every results file says of itself."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

from autoprune.searching.results import package_versions


def circumstances() -> dict[str, Any]:
    """Returns commit, date, hardware and versions of this process."""
    return {
        "commit": commit(),
        "date": date.today().isoformat(),
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "machine": platform.machine(), **_gpu()},
        "versions": package_versions(),
    }


def commit() -> str | None:
    """Returns the commit of the checkout this package lies in, with a plus where it is changed; None outside one."""
    found = _git("rev-parse", "HEAD")
    return found + ("+" if _git("status", "--porcelain", "--", "autoprune") else "") if found else None


def _git(*arguments: str) -> str:
    root = Path(__file__).parents[2]
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=root)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _gpu() -> dict[str, str]:
    import torch

    return {"gpu": torch.cuda.get_device_name(0)} if torch.cuda.is_available() else {}
