from __future__ import annotations

import os

import pytest

from autoprune.core.files import write_together


def test_where_a_rename_fails_the_file_that_vouches_for_the_others_is_gone(tmp_path, monkeypatch):
    weights, structure = tmp_path / "w", tmp_path / "s"
    write_together({weights: lambda p: p.write_text("1"), structure: lambda p: p.write_text("1")})

    def refuse(*_places):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_together({weights: lambda p: p.write_text("2"), structure: lambda p: p.write_text("2")})
    assert [item.name for item in tmp_path.iterdir()] == ["w"]
    assert weights.read_text() == "1"
