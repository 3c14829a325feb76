"""Fixtures shared by all tests: one thread, and the folders of real data and weights where there are any."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprune.tracking.uris import default_store
from tests.faults.table import Tally


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that writes the table of faults."""
    parser.addoption("--faults-table", metavar="FOLDER", help="write faults.json and faults.md there if all pass")


def pytest_configure(config: pytest.Config) -> None:
    """Begins to count the faults that tests inject."""
    config.stash[Tally.KEY] = Tally()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the table of faults where that is asked for."""
    folder = session.config.getoption("--faults-table")
    if folder and exitstatus == 0:
        session.config.stash[Tally.KEY].write(Path(folder))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Returns a function that notes a fault which was injected, and what came of it, for the table of faults."""
    return request.config.stash[Tally.KEY].add


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    """Results do not depend on the number of cores, and parallel test runs do not fight over them."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _audible_loggers() -> Iterator[None]:
    """Undoes what a command run in this process did to logging: the CLI quiets libraries and keeps our warnings to
    itself, and Alembic below MLflow disables every logger it finds.
    """
    ours = logging.getLogger("autoprune")
    root = logging.getLogger()
    handlers, level = list(ours.handlers), root.level
    yield
    ours.handlers[:] = handlers
    ours.propagate = True
    root.setLevel(level)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("autoprune") and isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Returns the folder that holds `cifar-10-batches-py`, or skips."""
    return _folder("AUTOPRUNE_DATA_ROOT", "the image sets")


@pytest.fixture(scope="session")
def weights_root() -> Path:
    """Returns the folder that holds `resnet20_b_cifar10.pt` and the like, or skips."""
    return _folder("AUTOPRUNE_WEIGHTS_ROOT", "the pretrained networks")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a migrated MLflow database: migrating takes seconds, copying it nothing."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    MlflowClient(default_store(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    """Returns the address of an MLflow store of the test's own, in its temporary folder."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return default_store(tmp_path)


def _folder(variable: str, content: str) -> Path:
    named = os.environ.get(variable)
    if not named:
        pytest.skip(f"set {variable} to the folder of {content}")
    if not Path(named).is_dir():
        pytest.skip(f"{variable} names {named}, which is no folder")
    return Path(named)
