from __future__ import annotations

import re
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


def test_a_table_that_a_terminal_is_too_narrow_for_is_shown_on_its_side_where_that_fits(capsys, monkeypatch):
    headers = [f"heading {number}" for number in range(9)]
    rows = [(f"run {run}", *(f"value {run}{number}" for number in range(8))) for run in range(2)]

    def shown(columns):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        show_table("title", headers, rows)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        return [line.split("  ") for line in plain.splitlines()]

    wide, narrow = shown(200), shown(80)
    assert [cell.strip() for cell in wide[2] if cell.strip()] == headers
    cells = [[cell.strip() for cell in line if cell.strip()] for line in narrow]
    assert [line[0] for line in cells if line and line[0].startswith("heading")] == headers
    assert ["heading 8", "value 07", "value 17"] in cells
