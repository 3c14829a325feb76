"""Trainings on Ray Train; see `tests/searching/test_training.py` for whole ones."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext

import pytest

from autoprune.backends.ray_tune import nodes, team
from autoprune.errors import BackendError


def train(**options):
    team.run_team(lambda *_: None, hear=lambda _: None, **{"workers": 2, "gpus": (), "address": None, **options})


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Returns the folder of temporary files, which is to stay empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_cluster_that_cannot_be_reached_leaves_nothing_behind(temporary):
    with pytest.raises(BackendError, match="Cannot reach Ray at"):
        train(address="127.0.0.1:1")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ((), r"The nodes have room for 1 workers, not for 2\. Lower --workers\.$"),
        (
            ("0", "1"),
            r"for 1 workers with a GPU each, not for 2\. Lower --workers, or train on CPUs with --device cpu\.$",
        ),
    ],
)
def test_no_room_is_one_line_that_says_of_what_and_leaves_nothing_behind(temporary, monkeypatch, gpus, message):
    found = {"here": {"Resources": {"CPU": 8.0 if gpus else 1.0, "GPU": 1.0}}}
    monkeypatch.setattr(team, "cluster", lambda *_, **__: nullcontext())
    monkeypatch.setattr(nodes, "living", lambda: found)
    with pytest.raises(BackendError, match=message):
        train(gpus=gpus)
    assert list(temporary.iterdir()) == []
