"""What fits on the nodes of a cluster, and whether they run what the driver runs; no cluster is needed."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoprune.backends.ray_tune.nodes import Crew, crew, difference, room, versions
from autoprune.errors import BackendError

CLUSTER_FILE = Path(__file__).parents[2] / "experiments" / "cluster.yaml"


def node(cpus, gpus=0):
    return {"Resources": {"CPU": float(cpus), "GPU": float(gpus)}}


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "workers"),
    [
        ([node(4), node(2), node(1)], 1, 0.0, 7),
        ([node(4), node(2), node(1)], 2, 0.0, 3),  # none stretches over two nodes
        ([node(16, 1), node(2, 2), node(8)], 1, 0.25, 6),  # four on one GPU; CPUs for two; no GPU
        ([node(16, 1)], 1, 1 / 3, 3),
        ([node(16, 2)], 1, 0.4, 4),  # two on each: what is left of both makes no third
        ([node(16, 3), node(16, 1)], 1, 2.0, 1),
        ([{}], 1, 0.0, 0),
        ([], 1, 0.0, 0),
    ],
)
def test_room_is_counted_node_by_node_and_gpu_by_gpu(nodes, cpus, gpus, workers):
    assert room(nodes, cpus=cpus, gpus=gpus) == workers


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "found"),
    [
        ([node(16, 4)], None, None, (8, 0.5)),  # two share a GPU
        ([node(16, 4)], 1, None, (1, 1.0)),  # more than a whole one would be no use
        ([node(16, 4)], 4, None, (4, 1.0)),
        ([node(16, 4)], 6, None, (6, 0.5)),  # not 4/6, of which only four fit
        ([node(16, 4)], 9, None, (9, 1 / 3)),
        ([node(7, 1)], 7, None, (7, 1 / 7)),
        ([node(4, 4)], None, None, (4, 1.0)),  # more than four the CPUs do not suffice for
        ([node(1, 2), node(8, 1)], 3, None, (3, 0.5)),  # one on the first, two share that of the second
        ([node(3), node(3, 1), node(1, 1)], None, None, (3, 0.5)),  # a node without GPUs has no part
        ([node(3), node(2)], None, None, (5, 0.0)),
        ([node(3), node(2)], 4, None, (4, 0.0)),
        ([node(3), node(2, 0.5)], None, None, (5, 0.0)),
        ([node(16, 4)], None, 0.0, (16, 0.0)),
        ([node(16, 4)], None, 0.25, (16, 0.25)),
        ([node(16, 4)], None, 2.0, (2, 2.0)),
        ([node(16, 4)], 3, 0.25, (3, 0.25)),
    ],
)
def test_a_crew_has_the_largest_share_of_a_gpu_at_which_all_find_a_place(nodes, workers, gpus, found):
    made = crew(nodes, workers=workers, cpus=1, gpus=gpus)
    assert made == Crew(*found)
    assert room(nodes, cpus=1, gpus=made.gpus) >= made.workers


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "message"),
    [
        ([node(2)], 3, None, "3 workers need 3 CPUs, Ray has 2. Lower --workers"),
        ([node(2)], None, 0.5, "1 workers need 0.5 GPUs, Ray has 0. Lower --workers or --gpus-per-worker"),
        (
            [node(8, 1), node(8, 1)],
            None,
            2.0,
            "1 workers with 1 CPUs and 2 GPUs each do not fit: the 2 nodes have room",
        ),
        (
            [node(2, 1), node(30)],
            8,
            None,
            "the 2 nodes have room for 2, .* leave the GPUs out with --gpus-per-worker 0",
        ),
        ([node(0, 1), node(8)], None, None, "1 workers .* leave the GPUs out with --gpus-per-worker 0"),
        ([], None, None, "1 workers need 1 CPUs, Ray has 0"),
    ],
)
def test_a_crew_that_does_not_fit_is_one_line_that_says_what_to_lower(nodes, workers, gpus, message):
    with pytest.raises(BackendError, match=message) as caught:
        crew(nodes, workers=workers, cpus=1, gpus=gpus)
    assert "\n" not in str(caught.value)


def test_a_node_with_other_versions_is_named_with_what_differs():
    here = {"Python": "3.11", "torch": "2.11.0", "numpy": "2.4.6", "autoprune": "0.1.0"}
    there = {"Python": "3.12", "torch": "2.11.0", "numpy": "1.26.4"}
    said = difference(here, there, where="10.0.0.3")
    assert said == (
        "node 10.0.0.3 has Python 3.12 (driver: 3.11), autoprune missing (driver: 0.1.0), numpy 1.26.4 "
        "(driver: 2.4.6). Install the same versions on every node"
    )
    assert difference(here, dict(here), where="10.0.0.3") is None


def test_how_a_package_was_built_is_no_difference(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"torch": "2.11.0+cu128"}.get(name, "1.0"))
    assert versions()["torch"] == "2.11.0"


def test_a_cluster_of_another_ray_is_one_line_that_says_which(monkeypatch):
    from autoprune.backends.ray_tune import cluster

    def other_version(**_):
        raise RuntimeError(said + "10.0.0.3 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n")

    no_ray = SimpleNamespace(init=other_version, is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setattr(cluster, "ray", no_ray)
    said = "Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.11.7\nThis process on node "
    other = pytest.raises(BackendError, match=r"another version: The cluster was started with: Ray: 2\.50\.0 Python")
    with other as caught, cluster.cluster("auto", 1, 0):
        pass
    assert "\n" not in str(caught.value)
    assert "Install the same Ray and Python" in str(caught.value)


@pytest.mark.parametrize("done", [True, False])
def test_what_tune_cannot_write_at_its_end_costs_nothing(done, monkeypatch):
    from autoprune.backends.ray_tune import backend

    def gone(*_, **__):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(backend.tune, "run", gone)
    refused = pytest.raises(BackendError, match="Ray Tune cannot write below")
    with nullcontext() if done else refused:
        backend.drive(SimpleNamespace(done=done, stop_all=None), workers=1)


def test_the_example_of_a_cluster_is_what_rays_launcher_takes():
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("jsonschema")
    from ray.autoscaler._private.util import prepare_config, validate_config

    # As `ray up` does: what is left out is filled in, then all of it is held against Ray's schema.
    prepared = prepare_config(yaml.safe_load(CLUSTER_FILE.read_text()))
    validate_config(prepared)
    assert prepared["available_node_types"]["local.cluster.node"]["max_workers"] == 2
    assert prepared["file_mounts"] == {"~/ray-token": "~/ray-token"}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/ray-token ray start" in prepared[commands][-1]
