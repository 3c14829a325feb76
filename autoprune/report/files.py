"""Files that are whole or absent: written beside their place, synced, then renamed into it."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import RunError


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Replaces a file's content, or leaves the old one as it was.

    Raises:
        RunError: the disk is full, the folder is missing, or writing is not allowed.
    """
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise RunError(
            f"Cannot write {path}: {error.strerror or error}. Free space or give another folder with --out; "
            "what was written before is intact."
        ) from error


def atomic_write_text(path: Path, text: str) -> None:
    """Replaces a file's content by UTF-8 text, or leaves the old one as it was.

    Raises:
        RunError: the disk is full, the folder is missing, or writing is not allowed.
    """
    # A group name may hold a lone surrogate, which UTF-8 cannot carry.
    atomic_write_bytes(path, text.encode("utf-8", errors="replace"))


def write_front_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes candidate rows (see `rows.candidate_rows`), one column a figure and one `width.GROUP` a group.

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


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Makes the rename last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
