"""With --json, stdout holds JSON and nothing else, whatever the user's own code prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.cli.answers import answer, kept_alone
from autoprune.cli.edge import run

TALKATIVE = """
print("importing")

from torch import nn


class Talkative(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)

    def forward(self, x):
        print("a forward")
        return self.head(self.conv(x).relu().mean((2, 3)))


def make():
    print("building")
    return Talkative().eval()
"""


@pytest.fixture
def talkative(tmp_path, monkeypatch):
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "talkative", raising=False)
    return "talkative:make"


def test_what_a_network_prints_stays_out_of_the_json(talkative, capsys):
    assert run(["trace", talkative, "--data", "digits", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["model"] == talkative
    assert [word in said.err for word in ("importing", "building", "a forward")] == [True] * 3


def test_without_json_it_is_printed_as_ever(talkative, capsys):
    assert run(["trace", talkative, "--data", "digits"]) == 0
    assert "building\n" in capsys.readouterr().out


def test_stdout_is_put_back_where_work_fails(talkative, capsys):
    stdout = sys.stdout
    assert run(["trace", "talkative:missing", "--data", "digits", "--json"]) == 2
    assert sys.stdout is stdout
    assert capsys.readouterr().out == ""


def test_answers_go_to_the_stdout_of_their_time(capsys):
    with kept_alone():
        print("aside")
        answer("the answer")
    answer("another")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("the answer\nanother\n", "aside\n")


@pytest.mark.parametrize("asks", [["version"], ["version", "--json"], ["--help"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_leaves_is_no_error(asks, unbuffered):
    process = subprocess.Popen(
        [sys.executable, "-m", "autoprune", *asks],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_said_in_one_line(unbuffered):
    command, setting = [sys.executable, "-m", "autoprune", "version"], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=setting)
    assert (process.returncode, process.stderr.count("\n")) == (2, 1)
    assert "No space left on device" in process.stderr
