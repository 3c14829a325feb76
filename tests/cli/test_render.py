from __future__ import annotations

import sys

import pytest

from autoprune.cli.render import show_table


def test_plain_tables_are_aligned_with_numbers_flushed_right(capsys):
    show_table("title", ("name", "MACs"), [("a", "1,000"), ("longer", "7")])
    assert capsys.readouterr().out == "\ntitle\n  name     MACs\n  a       1,000\n  longer      7\n"


def test_an_empty_table_is_no_error(capsys):
    show_table("title", ("name",), [])
    assert "title" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["[bold]layer", "[/]", "layer"])
def test_names_are_shown_as_they_are_on_a_terminal(capsys, monkeypatch, name):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show_table("title", ("name",), [(name,)])
    assert name in capsys.readouterr().out
