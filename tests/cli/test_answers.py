"""With --json, stdout holds JSON and nothing else, whatever the user's own code prints."""

from __future__ import annotations

import json
import subprocess
import sys

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


def test_a_reader_who_leaves_is_no_error(talkative, tmp_path):
    command = [sys.executable, "-m", "autoprune", "trace", talkative, "--data", "digits", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 1
    assert "error" not in said.lower()
