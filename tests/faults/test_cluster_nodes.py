"""A real cluster whose nodes differ: in cores, in GPUs that several workers share, in versions; and jobs sent to it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from experiments.benchmarks.local_cluster import LocalCluster, run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]
DRIVER = Path(__file__).with_name("cluster_driver.py")


def driven(cluster, folder, **options):
    command = [sys.executable, str(DRIVER), cluster.address, str(folder), "12", "0.3", json.dumps(options)]
    return run(command, cluster, timeout=400)


def test_workers_share_gpus_on_nodes_that_differ_and_versions_must_not(tmp_path):
    with LocalCluster(1) as cluster:
        cluster.add(cpus=3, gpus=1)
        cluster.add(cpus=1, gpus=1)

        for share in (0.5, None):
            found = driven(cluster, tmp_path / f"share {share}", gpus_per_worker=share)
            assert found.returncode == 0, found.stderr
            said = json.loads(found.stdout.splitlines()[-1])
            # Two share the GPU of the first, the cores of the second are enough for one, the head has no GPU.
            assert said["workers"] == 3
            assert sorted(Counter(node for _, node, _ in said["places"]).values()) == [1, 2]
            assert {gpu for *_, gpu in said["places"]} == {0.0}

        found = driven(cluster, tmp_path / "none")
        said = json.loads(found.stdout.splitlines()[-1])
        assert said["workers"] == 5
        assert {gpu for *_, gpu in said["places"]} == {-1.0}

        found = driven(cluster, tmp_path / "many", gpus_per_worker=2)
        assert found.returncode == 1
        assert "error: 1 workers with 1 CPUs and 2 GPUs each do not fit" in found.stderr

        found = driven(cluster, tmp_path / "other", pretend={"torch": "1.13.1"})
        assert found.returncode == 1
        assert "(driver: 1.13.1). Install the same versions on every node" in found.stderr
        assert "Traceback" not in found.stderr


def test_a_search_is_submitted_as_a_job(tmp_path):
    """The README's command, on a head that takes jobs; the working directory travels along."""
    pytest.importorskip("aiohttp_cors", reason="ray[default] is not installed")
    (tmp_path / "mine.py").write_text((Path(__file__).parents[1] / "searching" / "toy_problem.py").read_text())
    search = "autoprune search --ray-address auto --no-mlflow --model mine:network --data mine:sets --candidates 4"
    with LocalCluster(2, dashboard=True) as cluster:
        job = ["ray", "job", "submit", "--address", cluster.jobs, "--working-dir", ".", "--"]
        out = ["--finetune-epochs", "0", "--out", str(tmp_path / "run")]
        found = run([*job, sys.executable, "-m", *search.split(), *out], cluster, cwd=tmp_path, timeout=400)
    assert "succeeded" in found.stdout, found.stdout[-3000:] + found.stderr[-3000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["workers"] == 2
    assert summary["incumbent"]["accuracy"] is not None
