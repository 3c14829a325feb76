"""Invariants: jobs run in order; nothing raises; what is not written is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from autoprune.tracking.background import BackgroundWriter


def writer(prepare=lambda: None, **options) -> BackgroundWriter:
    return BackgroundWriter(prepare, name="test", pauses=(0.0, 0.0), longest_pause=0.01, **options)


def test_jobs_run_in_order_and_the_last_one_last() -> None:
    seen: list[int] = []
    subject = writer()
    for number in range(20):
        subject.submit(lambda number=number: seen.append(number))
    assert subject.finish(seconds=10, last=lambda: seen.append(-1))
    assert seen == [*range(20), -1]
    assert subject.lost == 0
    assert subject.error is None


def test_a_job_that_fails_once_is_tried_again() -> None:
    tries: list[int] = []

    def flaky() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("busy")

    subject = writer()
    subject.submit(flaky)
    assert subject.finish(seconds=10)
    assert len(tries) == 2


def test_a_job_that_always_fails_is_counted_and_the_next_one_runs() -> None:
    seen: list[str] = []

    def broken() -> None:
        raise OSError("no\nspace")

    subject = writer()
    subject.submit(broken)
    subject.submit(lambda: seen.append("next"))
    assert not subject.finish(seconds=10)
    assert seen == ["next"]
    assert subject.lost == 1
    assert subject.error == "no space"


def test_a_full_queue_drops_jobs_instead_of_waiting() -> None:
    gate = threading.Event()
    subject = writer(capacity=2)
    subject.submit(lambda: gate.wait(10))
    for _ in range(50):
        subject.submit(lambda: None)
    assert subject.lost >= 47
    gate.set()
    subject.finish(seconds=10)


def test_jobs_handed_over_together_take_one_place_and_fail_one_by_one() -> None:
    gate = threading.Event()
    seen: list[int] = []

    def write(number: int) -> None:
        if number == 7:
            raise OSError("no space")
        seen.append(number)

    subject = writer(lambda: gate.wait(10), capacity=2)
    subject.submit(*(lambda number=number: write(number) for number in range(3001)))
    subject.submit(lambda: write(3001))
    gate.set()
    assert not subject.finish(seconds=10, last=lambda: write(-1))
    assert seen == [*range(7), *range(8, 3002), -1]
    assert subject.lost == 1


def test_what_is_left_of_jobs_handed_over_together_is_counted() -> None:
    gate, begun = threading.Event(), threading.Event()
    subject = writer()
    subject.submit(lambda: None, lambda: begun.set() or gate.wait(30), *[lambda: None] * 3)
    assert begun.wait(10)
    assert not subject.finish(seconds=0.05)
    assert subject.lost == 4
    gate.set()


def test_a_store_that_never_opens_loses_every_job_and_keeps_its_reason() -> None:
    def refuse() -> None:
        raise ConnectionError("refused")

    subject = writer(refuse)
    for _ in range(3):
        subject.submit(lambda: None)
    assert not subject.finish(seconds=10, last=lambda: None)
    assert subject.lost == 4
    assert subject.error == "refused"
    assert not subject.ready


def test_a_store_that_opens_late_loses_nothing() -> None:
    tries: list[int] = []
    seen: list[int] = []

    def late() -> None:
        tries.append(1)
        if len(tries) < 2:
            raise ConnectionError("starting")

    subject = writer(late)
    subject.submit(lambda: seen.append(1))
    assert subject.finish(seconds=10)
    assert seen == [1]


@pytest.mark.parametrize("away", [0.4, float("inf")], ids=["for a while", "for good"])
def test_a_store_that_goes_away_and_comes_back_gets_everything(away: float, tally: Callable[..., None]) -> None:
    seen: list[int] = []
    back = time.monotonic() + away

    def write(number: int) -> None:
        if time.monotonic() < back:
            raise ConnectionError("refused")
        seen.append(number)

    subject = BackgroundWriter(lambda: None, name="test", pauses=(0.01, 0.05, 0.2, 0.8))
    for number in range(8):
        subject.submit(lambda number=number: write(number))
    whole = subject.finish(seconds=10)
    assert (whole, seen, subject.lost) == ((True, list(range(8)), 0) if away < 1 else (False, [], 8))
    for_good = away == float("inf")
    tally("MLflow store gone", "the search goes on, losses are told" if for_good else "everything is written later")


def test_a_store_that_hangs_is_given_up_after_the_time() -> None:
    gate = threading.Event()
    subject = writer()
    subject.submit(lambda: gate.wait(30))
    subject.submit(lambda: None)
    assert not subject.finish(seconds=0.05)
    assert subject.lost == 2
    gate.set()


@pytest.mark.parametrize("count", [0, 5])
def test_jobs_after_the_end_are_dropped_and_counted(count: int) -> None:
    subject = writer()
    subject.finish(seconds=10)
    for _ in range(count):
        subject.submit(lambda: None)
    assert subject.lost == count
