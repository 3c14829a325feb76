"""The table of faults: which were injected how often, and what was lost.

pytest -m "faults or not faults" tests/faults tests/tracking tests/training --faults-table experiments/results
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import pytest


@dataclass
class Fault:
    """One row: what was done how often, evaluations that were lost and done twice, and how it ended."""

    fault: str
    times: int
    lost: int
    twice: int
    outcome: str


class Tally:
    """Counts faults by name and outcome."""

    KEY: ClassVar[pytest.StashKey[Tally]] = pytest.StashKey()

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Fault] = {}

    def add(self, fault: str, outcome: str, *, times: int = 1, lost: int = 0, twice: int = 0) -> None:
        """Notes that a fault was injected; `lost` and `twice` count evaluations."""
        row = self._rows.setdefault((fault, outcome), Fault(fault, 0, 0, 0, outcome))
        row.times += times
        row.lost += lost
        row.twice += twice

    def write(self, folder: Path) -> None:
        """Writes `faults.json` and `faults.md`; what was not injected this time stays as it is there."""
        from experiments.benchmarks.common import circumstances

        path = folder / "faults.json"
        before = json.loads(path.read_text(encoding="utf-8"))["faults"] if path.exists() else []
        injected = {row.fault for row in self._rows.values()}
        kept = [Fault(**row) for row in before if row["fault"] not in injected]
        rows = sorted([*self._rows.values(), *kept], key=lambda row: (row.fault, row.outcome))
        content = {
            "kind": "faults",
            **circumstances(("torch", "numpy", "ray")),
            "faults": [asdict(row) for row in rows],
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        lines = ["| fault | times | evaluations lost | done twice | outcome |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| {row.fault} | {row.times} | {row.lost} | {row.twice} | {row.outcome} |" for row in rows]
        (folder / "faults.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
