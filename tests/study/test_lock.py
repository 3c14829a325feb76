"""The lock of a run folder: one driver at a time, whatever becomes of the one before."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from autoprune.errors import RunError
from autoprune.study import lock
from autoprune.study.lock import LOCK_NAME, FolderLock

HOLDER = """
import sys
from pathlib import Path
from autoprune.study.lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a second process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path, holder):
    with pytest.raises(RunError) as caught:
        FolderLock(tmp_path / "run")
    assert f"(process {holder.pid} on {socket.gethostname()})" in str(caught.value)
    assert "--out" in str(caught.value)


def test_the_lock_vanishes_with_a_process_that_is_killed(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK_NAME).exists()
    with FolderLock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / LOCK_NAME).exists()


def test_a_lock_that_is_given_back_can_be_taken_again(tmp_path, holder):
    holder.communicate()
    with FolderLock(tmp_path / "run"), pytest.raises(RunError, match="Another process"):
        FolderLock(tmp_path / "run")
    FolderLock(tmp_path / "run").release()


def test_a_folder_that_nothing_was_written_to_goes_again(tmp_path):
    with FolderLock(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    FolderLock(tmp_path / "old").release()
    assert (tmp_path / "old").is_dir()


def test_what_a_killed_writer_left_is_cleaned_up_and_nothing_else(tmp_path):
    for name in (".summary.json.abc_1234.tmp", "mine.tmp", ".hidden"):
        (tmp_path / name).touch()
    FolderLock(tmp_path).release()
    assert {path.name for path in tmp_path.iterdir()} == {"mine.tmp", ".hidden"}


@pytest.fixture
def no_flock(monkeypatch):
    monkeypatch.setattr(lock, "flocked", lambda descriptor: False)


def _write(folder, **content):
    (folder / LOCK_NAME).write_text(json.dumps(content))


def test_without_flock_a_living_process_is_refused(tmp_path, holder, no_flock):
    with pytest.raises(RunError, match=rf"process {holder.pid} .* remove .*{LOCK_NAME}"):
        FolderLock(tmp_path / "run")
    holder.kill()
    holder.wait()
    FolderLock(tmp_path / "run").release()


def test_without_flock_a_process_on_another_machine_is_refused(tmp_path, no_flock):
    _write(tmp_path, pid=1, host="elsewhere")
    with pytest.raises(RunError, match=r"\(process 1 on elsewhere\)"):
        FolderLock(tmp_path)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"pid": true}', '{"pid": -1, "host": 3}', "[" * 100_000])
def test_without_flock_a_file_that_names_nobody_does_not_count(tmp_path, no_flock, text):
    (tmp_path / LOCK_NAME).write_text(text)
    FolderLock(tmp_path).release()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Cannot make the run folder"):
        FolderLock(tmp_path / "file" / "run")
