"""Invariants: a network is written once, by the second process or by this one; one that dies is one clear line."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from autoprune.errors import BackendError
from autoprune.searching import aside
from autoprune.searching.aside import Aside
from autoprune.tracking.registry import PickedNetwork

WHERE = {"store": "sqlite:///nowhere.db", "experiment": "toys", "search": "abc", "register": None}
SLEEP = "import time; time.sleep(60)"
DIE = "import sys; sys.stdin.buffer.read(1); sys.exit(3)"
ANSWER = "import pickle, sys; pickle.load(sys.stdin.buffer); pickle.dump({answer!r}, sys.stdout.buffer)"


def network(**changes):
    images, outputs = np.zeros((2, 1, 8, 8), np.float32), np.zeros((2, 10), np.float32)
    given = {"network": "a network", "images": images, "outputs": outputs, "run_name": "picked-1", "candidate": 1}
    rest = {"params": {}, "metrics": {}, "metadata": {}, "folder": Path("picked-1"), "requirements": ()}
    return PickedNetwork(**{**given, **rest, **changes})


@pytest.fixture
def written(monkeypatch):
    """Returns the networks that this process wrote."""
    here = []

    def write(picked, **_where):
        here.append(picked)
        return "written here"

    monkeypatch.setattr("autoprune.tracking.registry.log_network", write)
    return here


def started(monkeypatch, command):
    monkeypatch.setattr(aside, "_COMMAND", command)
    return Aside()


def test_what_the_second_process_answers_is_returned(monkeypatch, written):
    with started(monkeypatch, ANSWER.format(answer=("logged", "written there"))) as process:
        assert process.log(network(), **WHERE) == "written there"
    assert written == []


def test_a_refusal_in_the_second_process_is_raised_in_this_one(monkeypatch, written):
    answer = ANSWER.format(answer=("refused", "the disk is on fire."))
    with started(monkeypatch, answer) as process, pytest.raises(BackendError, match="the disk is on fire"):
        process.log(network(), **WHERE)
    assert written == []


def test_a_process_that_dies_while_it_writes_is_one_clear_line_and_nothing_is_written_twice(monkeypatch, written):
    with started(monkeypatch, DIE) as process, pytest.raises(BackendError, match=r"ended with code 3.*Pick it again"):
        process.log(network(), **WHERE)
    assert written == []


def test_a_network_that_cannot_be_read_elsewhere_is_written_here(monkeypatch, written):
    with started(monkeypatch, ANSWER.format(answer=("unread", "no such module"))) as process:
        assert process.log(network(), **WHERE) == "written here"
    with started(monkeypatch, SLEEP) as process:
        assert process.log(network(network=lambda images: images), **WHERE) == "written here"
    assert len(written) == 2


def test_without_a_second_process_the_network_is_written_here(monkeypatch, written):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with Aside() as process:
        process.open("sqlite:///nowhere.db")
        assert process.log(network(), **WHERE) == "written here"
    assert len(written) == 1


def test_a_process_does_not_outlive_the_block(monkeypatch):
    with started(monkeypatch, SLEEP) as process:
        inner = process._process
        assert inner.poll() is None
    assert inner.returncode == -9


def test_the_process_answers_for_every_end_of_a_job(monkeypatch, written):
    job = pickle.dumps((network(), WHERE))
    assert aside._done(job) == ("logged", "written here")
    assert aside._done(b"no pickle")[0] == "unread"

    def refuse(*_args, **_options):
        raise BackendError("the disk is on fire.")

    monkeypatch.setattr("autoprune.tracking.registry.log_network", refuse)
    assert aside._done(job) == ("refused", "the disk is on fire.")
