"""Fixtures shared by all tests: one thread, and the folders of real data and weights where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    """Results do not depend on the number of cores, and parallel test runs do not fight over them."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Returns the folder that holds `cifar-10-batches-py`, or skips."""
    return _folder("AUTOPRUNE_DATA_ROOT", "the image sets")


@pytest.fixture(scope="session")
def weights_root() -> Path:
    """Returns the folder that holds `resnet20_b_cifar10.pt` and the like, or skips."""
    return _folder("AUTOPRUNE_WEIGHTS_ROOT", "the pretrained networks")


def _folder(variable: str, content: str) -> Path:
    named = os.environ.get(variable)
    if not named:
        pytest.skip(f"set {variable} to the folder of {content}")
    if not Path(named).is_dir():
        pytest.skip(f"{variable} names {named}, which is no folder")
    return Path(named)
