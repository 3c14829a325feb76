"""Invariants: plain lines are few and hold the same figures; the display ends whatever happens."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from autoprune.report.screens.live import LiveProgress
from tests.tracking.tracked_candidates import candidate, evaluation, failure


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def display(clock: Clock, *, terminal: bool = False, **options) -> tuple[LiveProgress, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, color_system=None, _environ={})
    return LiveProgress(candidates=10, console=console, clock=clock, **options), stream


def test_plain_lines_are_throttled_and_end_with_the_final_figures() -> None:
    clock = Clock()
    subject, stream = display(clock)
    subject.stage("Searching")
    for number in range(10):
        subject.asked(candidate(number))
        clock.now += 4
        subject.told(evaluation(number, 0.1 * number), finished=True)
    subject.close()
    subject.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Searching"
    assert len(lines) == 5
    assert "3/10 candidates, best 20.00 % (hold-out, candidate 2), front 1, failures 0, elapsed 0:12" in lines[1]
    assert lines[1].endswith("left about 0:28")
    assert lines[-1].startswith("10/10 candidates, best 90.00 %")
    assert "left" not in lines[-1]


def test_a_stage_shows_its_own_progress() -> None:
    clock = Clock()
    subject, stream = display(clock)
    subject.stage("Training the dense network")
    for step in range(1, 5):
        clock.now += 10
        subject.progress(step, 4)
    subject.progress(0, 0)
    subject.close()
    assert "Training the dense network: 25 %" in stream.getvalue()
    assert stream.getvalue().count("\n") == 5


def test_candidates_taken_over_from_an_earlier_part_do_not_make_it_look_fast() -> None:
    clock = Clock()
    subject, stream = display(clock, line_seconds=0.0)
    for number in range(5):
        subject.told(evaluation(number), finished=True)
    subject.asked(candidate(5))
    clock.now += 10
    subject.told(evaluation(5), finished=True)
    assert stream.getvalue().splitlines()[-1].endswith("left about 0:40")


def test_the_time_limit_bounds_the_time_left() -> None:
    clock = Clock()
    subject, stream = display(clock, line_seconds=0.0, time_limit=25.0)
    subject.asked(candidate(0))
    clock.now += 10
    subject.told(evaluation(0), finished=True)
    assert stream.getvalue().splitlines()[-1].endswith("left about 0:15")


def test_a_probe_over_budget_is_counted_and_is_no_result() -> None:
    subject, stream = display(Clock(), line_seconds=0.0)
    probe = evaluation(0, 0.9)
    subject.told(replace(probe, candidate=replace(probe.candidate, legal=False)), finished=True)
    assert "1/10 candidates, no result yet, front 0" in stream.getvalue()


def test_warnings_stay_and_hold_no_control_characters() -> None:
    subject, stream = display(Clock())
    subject.warning("something\x1b[31m odd [bold]")
    assert "warning: something [31m odd [bold]" in stream.getvalue()


@pytest.mark.parametrize("searching", [False, True])
def test_the_picture_shows_the_figures(searching: bool) -> None:
    clock = Clock()
    subject, stream = display(clock, terminal=True)
    with subject:
        subject.stage("Searching")
        subject.progress(1, 2)
        if searching:
            subject.asked(candidate(0))
            clock.now += 3
            subject.told(evaluation(0, 0.5), finished=False)
            subject.told(evaluation(0, 0.75, level=1), finished=True)
            subject.told(failure(1), finished=True)
    text = stream.getvalue()
    assert "Searching  50 %" in text
    assert ("75.00 % #0" in text) is searching
    assert ("2/10" in text) is searching


def test_the_display_ends_when_the_search_raises() -> None:
    subject, stream = display(Clock(), terminal=True)

    def search() -> None:
        with subject:
            subject.stage("Searching")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search()
    # The cursor is shown again.
    assert stream.getvalue().rstrip("\n").endswith("\x1b[?25h")


def test_the_front_grows_in_a_terminal_that_has_room_and_only_there() -> None:
    subject, _ = display(Clock(), terminal=True)
    console = Console(width=100, color_system=None, file=io.StringIO())
    for number in range(4):
        subject.asked(candidate(number))
        subject.told(evaluation(number, 0.2 * (number + 1)), finished=True)
        console.print(subject.render())
    subject.close()
    assert console.file.getvalue().count("MACs") == 3
    small = LiveProgress(candidates=4, console=Console(file=io.StringIO(), force_terminal=True, width=100, height=12))
    for number in range(4):
        small.asked(candidate(number))
        small.told(evaluation(number, 0.2 * (number + 1)), finished=True)
    small.close()
    assert "MACs" not in small._console.file.getvalue()
