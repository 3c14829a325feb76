"""Invariants: a network is written once, by another process or by this one; a process that dies is one clear line."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import BackendError
from autoprune.searching.delivery import second_process
from autoprune.searching.delivery.second_process import Aside, answered, exported
from autoprune.tracking.registry import PickedNetwork

WHERE = {"store": "sqlite:///nowhere.db", "experiment": "toys", "search": "abc", "register": None}
SLEEP = "import time; time.sleep(60)"
DIE = "import sys; sys.stdin.buffer.read(1); sys.exit(3)"
ANSWER = "import pickle, sys; pickle.load(sys.stdin.buffer); pickle.dump({answer!r}, sys.stdout.buffer)"


def network(**changes):
    images, outputs = np.zeros((2, 1, 8, 8), np.float32), np.zeros((2, 10), np.float32)
    given = {"program": b"a network", "torch_version": "2.15.0", "images": images, "outputs": outputs}
    rest = {"run_name": "picked-1", "candidate": 1, "params": {}, "metrics": {}, "metadata": {}, "requirements": ()}
    return PickedNetwork(**{**given, **rest, "folder": Path("picked-1"), **changes})


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
    monkeypatch.setattr(second_process, "_COMMAND", command)
    return Aside()


def test_what_another_process_answers_is_returned(monkeypatch, written):
    with started(monkeypatch, ANSWER.format(answer=("done", "written there"))) as processes:
        assert processes.logged(network(), WHERE) == "written there"
    assert written == []


def test_a_refusal_in_another_process_is_raised_in_this_one(monkeypatch, written):
    answer = ANSWER.format(answer=("refused", "the disk is on fire."))
    with started(monkeypatch, answer) as processes, pytest.raises(BackendError, match="the disk is on fire"):
        processes.logged(network(), WHERE)
    assert written == []


def test_a_process_that_dies_while_it_writes_is_one_clear_line_and_nothing_is_written_twice(monkeypatch, written):
    with started(monkeypatch, DIE) as processes, pytest.raises(BackendError, match=r"ended with code 3. Pick it again"):
        processes.logged(network(), WHERE)
    assert written == []


def test_a_network_that_cannot_be_read_elsewhere_is_exported_and_written_here(monkeypatch, written):
    with started(monkeypatch, ANSWER.format(answer=("unread", "no such module"))) as processes:
        assert processes.logged(network(), WHERE) == "written here"
    monkeypatch.setattr(second_process, "_WORK", {"export": lambda *_: b"exported here"})
    with started(monkeypatch, SLEEP) as processes:
        assert processes.exported(lambda images: images, None) == b"exported here"
    assert len(written) == 1


def test_without_other_processes_the_network_is_written_here(monkeypatch, written):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with Aside() as processes:
        processes.open("sqlite:///nowhere.db")
        assert processes.logged(network(), WHERE) == "written here"
    assert len(written) == 1


def test_no_process_outlives_the_block(monkeypatch):
    begin, both = second_process.subprocess.Popen, []
    monkeypatch.setattr(
        second_process.subprocess, "Popen", lambda *given, **how: both.append(begin(*given, **how)) or both[-1]
    )
    with started(monkeypatch, SLEEP):
        assert [process.poll() for process in both] == [None, None]
    assert [process.returncode for process in both] == [-9, -9]


def test_a_process_answers_for_every_end_of_its_work(monkeypatch, written):
    job = pickle.dumps((network(), WHERE))
    assert answered("log", job) == ("done", "written here")
    assert answered("log", b"no pickle")[0] == "unread"

    def refuse(*_args, **_options):
        raise BackendError("the disk is on fire.")

    monkeypatch.setattr("autoprune.tracking.registry.log_network", refuse)
    assert answered("log", job) == ("refused", "the disk is on fire.")

    def break_off(*_args, **_options):
        raise MemoryError("no room for the weights")

    monkeypatch.setattr("autoprune.tracking.registry.log_network", break_off)
    kind, reason = answered("log", job)
    assert kind == "refused"
    assert "broke off: MemoryError: no room for the weights. Pick it again." in reason


def test_an_exported_network_takes_any_batch_and_one_that_cannot_be_traced_says_so():
    class Choosy(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    class Counting(nn.Module):
        def forward(self, images):
            return images + torch.zeros(len(images), 1)

    class Listing(nn.Module):
        def forward(self, images):
            return torch.stack([image + 1 for image in images])

    images = np.ones((2, 3), np.float32)
    for network, width in ((nn.Linear(3, 4).eval(), 4), (Counting(), 3)):
        program = torch.export.load(io.BytesIO(exported(network, images))).module()
        for batch in (1, 5):
            assert program(torch.zeros(batch, 3)).shape == (batch, width)
    with pytest.raises(BackendError, match="makes a constant of the number of images"):
        exported(Listing(), images)
    with pytest.raises(BackendError, match=r"torch\.export cannot trace the network: "):
        exported(Choosy(), images)
