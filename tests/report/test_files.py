"""Invariants: a file is whole or as before; whatever goes wrong is one error that names the file."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from autoprune.errors import RunError
from autoprune.report.files import atomic_write_bytes, atomic_write_text, write_front_csv
from autoprune.report.records.rows import candidate_rows
from tests.tracking.tracked_candidates import DENSE, GROUPS, evaluation


def test_a_write_replaces_the_content_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write_text(path, "first")
    atomic_write_text(path, "é\ud800")
    assert path.read_text(encoding="utf-8") == "é?"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_content_and_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    atomic_write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"Cannot write .*a\.bin: No space left on device\. Free space"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Cannot write"):
        atomic_write_text(tmp_path / "no" / "a.txt", "x")


def test_files_get_the_usual_permissions_and_not_those_of_a_temporary_file(tmp_path: Path) -> None:
    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    plain.write_text("x")
    atomic_write_text(atomic, "x")
    assert atomic.stat().st_mode == plain.stat().st_mode


def test_the_table_has_a_column_a_figure_and_a_column_a_group(tmp_path: Path) -> None:
    rows = candidate_rows([evaluation(0, 0.5), evaluation(1, 0.25)], groups=GROUPS, dense=DENSE, front_ids={0})
    write_front_csv(tmp_path / "front.csv", rows)
    with (tmp_path / "front.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["id"] for row in read] == ["0", "1"]
    assert [row["front"] for row in read] == ["true", "false"]
    assert read[0]["width.odd<name>"] == "32"
    assert float(read[1]["accuracy"]) == 0.25


def test_an_empty_table_can_be_written(tmp_path: Path) -> None:
    write_front_csv(tmp_path / "front.csv", [])
    assert (tmp_path / "front.csv").read_text() == "\n"
