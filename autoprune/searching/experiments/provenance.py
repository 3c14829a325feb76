"""With which commit, versions and hardware figures were measured: what every results file says of itself."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

from autoprune.devices import processor
from autoprune.searching.search.results import package_versions


def circumstances() -> dict[str, Any]:
    """Returns commit, date, hardware and versions of this process."""
    return {
        "commit": commit(),
        "date": date.today().isoformat(),
        "hardware": {"processor": processor(), "cores": os.cpu_count(), "machine": platform.machine(), **_gpu()},
        "versions": package_versions(),
    }


def commit(*paths: str) -> str | None:
    """Returns the commit of the checkout this package lies in, with a plus where it is changed; None outside one.

    Args:
        paths: where changes count, as git writes them; in the package if there is none.
    """
    found = _git("rev-parse", "HEAD")
    changed = found and _git("status", "--porcelain", "--", *(paths or ("autoprune",)))
    return found + ("+" if changed else "") if found else None


def _git(*arguments: str) -> str:
    root = Path(__file__).parents[3]
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=root)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _gpu() -> dict[str, str]:
    import torch

    return {"gpu": torch.cuda.get_device_name(0)} if torch.cuda.is_available() else {}
