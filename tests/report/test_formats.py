"""Invariants: three significant digits, one unit; no control character survives."""

from __future__ import annotations

import math

import pytest

from autoprune.report import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (97, "97"),
        (999, "999"),
        (999.6, "1.00 k"),
        (272_474, "272 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (40_813_184, "40.8 M"),
        (1_230_000_000, "1.23 G"),
        (9_995_000, "10.0 M"),
        (None, "-"),
        (float("nan"), "-"),
    ],
)
def test_counts_have_three_significant_digits(value: float | None, text: str) -> None:
    assert formats.count(value) == text


def test_accuracies_shares_and_differences_have_their_own_digits() -> None:
    assert (formats.accuracy(0.926), formats.share(0.5), formats.points(0.0125)) == ("92.60 %", "50.0 %", "+1.25")
    assert (formats.accuracy(None), formats.share(None), formats.points(None)) == ("-", "-", "-")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.6, "1:00"),
        (725, "12:05"),
        (10_800, "3:00:00"),
        (183_900, "2 d 03:05"),
        (None, "-"),
        (-1, "0:00"),
    ],
)
def test_durations_read_like_a_clock(seconds: float | None, text: str) -> None:
    assert formats.duration(seconds) == text


def test_a_line_holds_no_escape_sequence_and_no_line_break() -> None:
    line = formats.one_line("out of\nmemory \x1b[31mred\x07" + "x" * 500)
    assert line.isprintable()
    assert len(line) == 200


@pytest.mark.parametrize(("seconds", "text"), [(0.00123456, "1.23 ms"), (0, "0 ms"), (None, "-"), (math.nan, "-")])
def test_a_latency_reads_in_milliseconds(seconds: float | None, text: str) -> None:
    assert formats.milliseconds(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(1, "1 epoch"), (1.0, "1 epoch"), (0.5, "0.5 epochs"), (2, "2 epochs")])
def test_one_epoch_is_no_plural(number: float, text: str) -> None:
    assert formats.epochs(number) == text
