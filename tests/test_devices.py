"""What a device stands for; GPUs are said to be there, none is needed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from autoprune import devices


@pytest.mark.parametrize(
    ("device", "shown", "count", "names"),
    [
        ("cpu", None, 4, ()),
        ("cuda", None, 2, ("0", "1")),
        ("cuda:1", None, 4, ("1",)),
        ("cuda", "2, 5", 2, ("2", "5")),
        ("cuda:1", "2,5", 2, ("5",)),
        ("cuda", "GPU-8a,GPU-9b", 2, ("GPU-8a", "GPU-9b")),
        ("cuda", "0,7", 1, ("0",)),  # torch has seen that there is no seventh
    ],
)
def test_gpus_are_called_as_the_variable_calls_them_that_shows_them(device, shown, count, names, monkeypatch):
    monkeypatch.setattr(devices, "gpu_module", lambda _: SimpleNamespace(device_count=lambda: count))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert devices.visible_gpus(device) == names


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_a_worker_computes_on_what_it_has_whatever_its_driver_has(device):
    assert devices.device_of_worker(device, gpu=True) == "cuda"  # the first that the worker is shown
    assert devices.device_of_worker(device, gpu=False) == "cpu"
