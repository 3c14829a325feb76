"""Trainings on Ray Train; see `tests/searching/trainings/test_training.py` for whole ones."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from autoprune.backends.ray_tune import nodes, team
from autoprune.errors import BackendError


def train(heard=None, **options):
    usual = {"workers": 2, "gpu": None, "local_gpus": (), "address": None}
    warn = [].append if heard is None else heard.append
    team.run_team(lambda *_, **__: None, hear=lambda _: None, warn=warn, **{**usual, **options})


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Returns the folder of temporary files, which is to stay empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def joined(monkeypatch):
    """Returns a function that joins a cluster of one node, and a list of the GPUs that a local Ray was told to have."""
    told = []

    def join(cpus, gpus):
        found = {"here": {"Resources": {"CPU": float(cpus), "GPU": float(gpus)}}}
        monkeypatch.setattr(team, "cluster", lambda *_, gpus: told.append(gpus) or nullcontext())
        monkeypatch.setattr(nodes, "living", lambda: found)
        return told

    return join


def test_a_cluster_that_cannot_be_reached_leaves_nothing_behind(temporary):
    with pytest.raises(BackendError, match="Cannot reach Ray at"):
        train(address="127.0.0.1:1")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ((1, 0), r"The nodes have room for 1 workers, not for 2\. Lower --workers\.$"),
        ((8, 1), r"for 1 workers with a GPU each, not for 2\. Lower --workers, or train on CPUs with --device cpu\.$"),
    ],
)
def test_no_room_is_one_line_that_says_of_what_and_leaves_nothing_behind(temporary, joined, node, message):
    joined(*node)
    with pytest.raises(BackendError, match=message):
        train()
    assert list(temporary.iterdir()) == []


class Begun(Exception):  # noqa: N818 (no error)
    """Ends a training where its processes would start."""


@pytest.mark.parametrize("local_gpus", [(), ("0", "1")])
@pytest.mark.parametrize(
    ("node", "gpu", "each"),
    [((4, 2), None, True), ((4, 0), None, False), ((4, 2), False, False), ((4, 2), True, True)],
)
def test_the_gpus_of_the_nodes_count_unless_a_person_says_otherwise(joined, monkeypatch, local_gpus, node, gpu, each):
    told, heard, begun = joined(*node), [], []

    def trainer(_, *, workers, gpu, storage):
        begun.append((workers, gpu))
        raise Begun

    monkeypatch.setattr(team, "_trainer", trainer)
    monkeypatch.setattr(team, "_mailbox", lambda _: ("box", None))
    with pytest.raises(Begun):
        train(heard, gpu=gpu, local_gpus=local_gpus)
    assert begun == [(2, each)]
    assert told == [() if gpu is False else local_gpus]
    lacking = bool(local_gpus) and gpu is None and not each
    assert heard == (["Ray has no GPU, though this machine has one: the network is trained on CPUs."] * lacking)


@pytest.mark.parametrize("gpu", [True, False])
def test_every_process_is_told_its_place_and_whether_it_has_a_gpu(monkeypatch, gpu):
    heard, asked = [], []
    work = lambda rank, size, tell, *, gpu: tell((rank, size, gpu))  # noqa: E731
    box = SimpleNamespace(
        work=SimpleNamespace(remote=lambda: (work,)), tell=SimpleNamespace(remote=lambda item: heard.append(item))
    )
    monkeypatch.setattr(team.ray, "get", lambda reference: reference)
    monkeypatch.setattr(team.ray, "get_actor", lambda name, namespace: asked.append((name, namespace)) or box)
    context = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
    monkeypatch.setattr("ray.train.get_context", lambda: context)
    team.member({"mailbox": "box", "namespace": "ours", "gpu": gpu})
    assert heard == [(1, 2, gpu)]
    assert asked == [("box", "ours")]
