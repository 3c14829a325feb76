"""How many workers compute on what, from the options to what Ray is asked for; GPUs are said to be there."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from autoprune import devices
from autoprune.backends.ray_tune import backend, nodes
from autoprune.core.seams import frozen_arrays
from autoprune.errors import BackendError, ConfigError
from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.search import workers
from tests.evaluation.subjects import factory

CORES = 6


class Heard(NullObserver):
    """Remembers warnings."""

    def __init__(self):
        self.warnings = []

    def warning(self, text):
        self.warnings.append(text)


class Started(Exception):  # noqa: N818 (no error)
    """Ends a search where its workers would start."""


@pytest.fixture
def asked(monkeypatch):
    """Returns a function that starts a search on a machine with GPUs, and tells what Ray was asked for."""

    def ask(gpus, *, joined=None, **options):
        """Returns (CPUs and GPUs that a local Ray is told to have), (workers, share, device), warnings."""
        asked = SearchOptions(**options)
        device = asked.device or ("cuda" if gpus else "cpu")
        told, started, heard = [], [], Heard()

        @contextmanager
        def cluster(address, cpus, _bytes, *, gpus):
            told.append((cpus, gpus))
            here = {"Resources": {"CPU": float(cpus), "GPU": float(len(gpus))}}
            found = {"here": here} if joined is None else dict(enumerate(joined))
            with monkeypatch.context() as patched:
                patched.setattr(nodes, "living", lambda: found)
                yield

        def pool(factory, *, workers, cpus, gpus, **_):
            assert cpus == 1
            started.append((workers, gpus, factory.for_workers(gpu=gpus > 0).device))
            raise Started

        module = SimpleNamespace(device_count=lambda: gpus, empty_cache=lambda: None)
        with monkeypatch.context() as patched:
            patched.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            patched.setattr(devices, "gpu_module", lambda _: module)
            patched.setattr(workers, "usable_device", lambda _: "cuda" if gpus else "cpu")
            patched.setattr(workers, "usable_cores", lambda: CORES)
            patched.setattr(backend, "cluster", cluster)
            patched.setattr(backend, "Pool", pool)
            made = replace(factory()[1], device=device)
            prepared = SimpleNamespace(options=asked, device=device, factory=lambda: made)
            with pytest.raises(Started):
                workers.evaluated(prepared, None, heard, should_stop=lambda: False)
        return told[0], started[0], heard.warnings

    return ask


ALL = ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("gpus", "options", "told", "started"),
    [
        (0, {}, (CORES, ()), (CORES, 0.0, "cpu")),
        (0, {"workers": 2}, (2, ()), (2, 0.0, "cpu")),
        (1, {}, (CORES, ("0",)), (2, 0.5, "cuda")),
        (4, {}, (8, ALL), (8, 0.5, "cuda")),  # more than cores: they mostly wait for their GPU
        (4, {"workers": 1}, (1, ALL), (1, 1.0, "cuda")),
        (4, {"workers": 6}, (6, ALL), (6, 0.5, "cuda")),
        (1, {"workers": 3}, (3, ("0",)), (3, 1 / 3, "cuda")),
        (4, {"device": "cuda"}, (8, ALL), (8, 0.5, "cuda")),
        (4, {"device": "cuda:1"}, (CORES, ("1",)), (2, 0.5, "cuda")),
        (4, {"device": "cuda:1", "workers": 3}, (3, ("1",)), (3, 1 / 3, "cuda")),
        (4, {"device": "cpu"}, (CORES, ()), (CORES, 0.0, "cpu")),
        (4, {"gpus_per_worker": 0.0}, (CORES, ()), (CORES, 0.0, "cpu")),
        (4, {"gpus_per_worker": 0.0, "workers": 3}, (3, ()), (3, 0.0, "cpu")),
        (4, {"gpus_per_worker": 2.0}, (8, ALL), (2, 2.0, "cuda")),
        (1, {"gpus_per_worker": 0.25}, (CORES, ("0",)), (4, 0.25, "cuda")),
        (1, {"gpus_per_worker": 0.25, "device": "cpu"}, (CORES, ("0",)), (4, 0.25, "cuda")),  # who says both means both
    ],
)
def test_a_local_ray_has_what_the_device_stands_for_and_its_workers_share_it(asked, gpus, options, told, started):
    assert asked(gpus, **options) == (told, started, [])


@pytest.mark.parametrize("gpus", [0, 4])
@pytest.mark.parametrize(
    ("joined", "options", "started"),
    [
        ([(8, 0), (8, 2)], {}, (4, 0.5, "cuda")),
        ([(8, 0), (8, 2)], {"workers": 3}, (3, 0.5, "cuda")),
        ([(8, 0), (8, 2)], {"device": "cpu"}, (16, 0.0, "cpu")),
        ([(8, 0), (8, 2)], {"gpus_per_worker": 0.0}, (16, 0.0, "cpu")),
        ([(8, 0), (8, 2)], {"gpus_per_worker": 0.25}, (8, 0.25, "cuda")),
        ([(8, 0), (8, 0)], {}, (16, 0.0, "cpu")),
        ([(8, 0), (8, 0)], {"workers": 3}, (3, 0.0, "cpu")),
    ],
)
def test_on_a_cluster_its_own_gpus_count_not_those_of_this_machine(asked, gpus, joined, options, started):
    nodes = [{"Resources": {"CPU": float(cpus), "GPU": float(count)}} for cpus, count in joined]
    _, found, warnings = asked(gpus, joined=nodes, ray_address="auto", **options)
    assert found == started
    lacking = gpus and not any(count for _, count in joined)
    assert warnings == (
        ["Ray has no GPU, though this machine has one: candidates are evaluated on CPUs."] if lacking else []
    )


def threads_during(monkeypatch, **options):
    """Returns torch's threads while a backend runs, and the evaluator is built, in a process that has three."""
    made, before, seen = factory()[1], torch.get_num_threads(), []

    class Looking:
        def run(self, study, factory, *, should_stop):
            factory.build(frozen_arrays(factory.arrays), worker="main")
            seen.append(torch.get_num_threads())
            raise Started

    monkeypatch.setattr(workers, "backend_of", lambda *_: Looking())
    prepared = SimpleNamespace(options=SearchOptions(**options), device="cpu", factory=lambda: made)
    try:
        torch.set_num_threads(3)
        with pytest.raises(Started):
            workers.evaluated(prepared, None, NullObserver(), should_stop=lambda: False)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    return seen


def test_a_search_in_this_process_computes_on_one_thread_and_leaves_the_callers_as_they_were(monkeypatch):
    assert threads_during(monkeypatch, backend="serial") == [1]
    assert threads_during(monkeypatch, backend="ray") == [3]


def test_gpus_that_are_asked_for_and_are_not_there_are_one_line(asked):
    with pytest.raises(BackendError, match=r"1 workers need 0\.5 GPUs, Ray has 0\. Lower --workers or --gpus-per-"):
        asked(0, gpus_per_worker=0.5)


def test_hundreds_of_workers_are_refused_here_but_not_on_a_cluster():
    with pytest.raises(ConfigError, match=r"900 workers are too many for the 1 cores .* at most 8 with --workers"):
        workers.require_cores(SearchOptions(workers=900))
    workers.require_cores(SearchOptions(workers=900, ray_address="auto"))
