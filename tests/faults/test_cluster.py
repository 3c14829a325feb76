"""Workers, raylets, nodes and drivers of a real cluster of several nodes are killed, and the search ends the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

from toy_search import ToyFactory, build_ladder, build_study

from autoprune.backends import SerialBackend
from experiments.benchmarks.local_cluster import LocalCluster
from experiments.benchmarks.lost_nodes import searched

pytestmark = pytest.mark.ray
DRIVER = Path(__file__).with_name("cluster_driver.py")


def search(cluster, folder, candidates, harms):
    command = (str(DRIVER), cluster.address, str(folder), str(candidates), "0.5")
    found = searched(cluster, folder, command, command, harms=harms)
    return found, json.loads(found["output"].splitlines()[-1])["front"]


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize(
    "harms",
    [
        pytest.param([(4, "worker"), (9, "worker")], id="workers"),
        pytest.param([(6, "raylet")], id="a raylet"),
        pytest.param([(5, "driver"), (10, "node"), (15, "driver")], id="two drivers and a node"),
    ],
)
def test_a_search_on_three_nodes_survives(tmp_path, harms, tally):
    with LocalCluster(3) as cluster:
        found, front = search(cluster, tmp_path / "run", 14, harms)
    check(found, front, 14, harms, tally)


def test_a_search_on_two_nodes_survives_the_loss_of_one(tmp_path, tally):
    harms = [(3, "node")]
    with LocalCluster(2) as cluster:
        found, front = search(cluster, tmp_path / "run", 6, harms)
    check(found, front, 6, harms, tally)


def check(found, front, candidates, harms, tally):
    assert (found["lost"], found["twice"], found["failures"]) == (0, 0, 0), found
    assert len(found["told"]) == 2 * candidates
    assert front == front_of(candidates)
    for _, what in harms:
        tally(f"{what} of a cluster killed", lost=found["lost"], twice=found["twice"], outcome="same front")


def front_of(candidates):
    """Returns the front of the same search, without harm and without Ray."""
    study = build_study(candidates=candidates, ladder=build_ladder(2, keep=1.0))
    SerialBackend().run(study, ToyFactory(), should_stop=lambda: False)
    return sorted([e.candidate.id, e.candidate.cost.macs, e.score] for e in study.front)
