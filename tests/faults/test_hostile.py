"""Run folders made by somebody who wants our files: links in them are not written through."""

from __future__ import annotations

import os

import pytest

from autoprune.core.files import require_inside
from autoprune.errors import RunError
from autoprune.study import Ledger
from autoprune.study.lock import FolderLock

pytestmark = pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="this system has no such links")


@pytest.fixture
def victim(tmp_path):
    """Returns a file outside the run folder that must stay as it is."""
    path = tmp_path / "victim"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_a_lock_that_is_a_link_is_refused(run, victim):
    (run / ".lock").symlink_to(victim)
    with pytest.raises(RunError, match="Cannot make the run folder"):
        FolderLock(run)


def test_a_ledger_that_is_a_link_is_refused(run, victim):
    (run / "ledger.jsonl").symlink_to(victim)
    with pytest.raises(RunError, match="Cannot open the ledger"):
        Ledger(run / "ledger.jsonl", run={})


def test_a_checkpoint_that_is_a_link_is_not_followed(run, victim):
    from autoprune.training.checkpoints import CheckpointFolder

    for name in ("step-00000001.pt", ".step-00000001.pt.abcd1234.tmp"):
        (run / name).symlink_to(victim)
    CheckpointFolder(run, {}).save({"a": 1}, step=1)
    assert not (run / "step-00000001.pt").is_symlink()


def test_a_folder_in_the_run_folder_that_is_a_link_elsewhere_is_refused(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (run / "incumbent").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link to a place outside"):
        require_inside(run / "incumbent", run)
    require_inside(run / "other", run)


def test_a_search_whose_incumbent_is_a_link_elsewhere_writes_nothing_there(run, tmp_path):
    from autoprune.report.observer import NullObserver
    from autoprune.searching.inputs.options import SearchOptions
    from autoprune.searching.search.running import run as search

    (tmp_path / "elsewhere").mkdir()
    (run / "incumbent").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link to a place outside"):
        search(None, SearchOptions(backend="serial", out=run), NullObserver())
    assert not list((tmp_path / "elsewhere").iterdir())
