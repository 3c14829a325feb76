"""Files of a run folder, whole or absent (see `autoprune.core.files`), and the front as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.core.files import atomic_write_bytes, atomic_write_text

__all__ = ["atomic_write_bytes", "atomic_write_text", "write_front_csv"]


def write_front_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes candidate rows (see `records.rows.candidate_rows`), one column a figure and one `width.GROUP` a group.

    Raises:
        RunError: the file cannot be written.
    """
    figures = [name for name in (rows[0] if rows else {}) if name != "widths"]
    groups = list(rows[0]["widths"]) if rows else []
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*figures, *(f"width.{group}" for group in groups)])
    for row in rows:
        writer.writerow([*(_cell(row[name]) for name in figures), *(row["widths"][group] for group in groups)])
    atomic_write_text(path, buffer.getvalue())


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else value
