"""Invariants: the page is served on this machine only; a secret never stands among the arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import ConfigError
from autoprune.tracking.ui import RunLocation, ui_command, ui_environment
from autoprune.tracking.uris import default_store


def test_the_page_is_served_on_this_machine_by_one_worker(tmp_path: Path) -> None:
    command = ui_command(default_store(tmp_path), port=5123)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5123"
    assert command[command.index("--workers") + 1] == "1"
    assert default_store(tmp_path) in command
    assert ui_environment(default_store(tmp_path))["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_a_secret_travels_in_the_environment_only() -> None:
    uri = "postgresql://me:hunter2@host/db"
    assert "hunter2" not in " ".join(ui_command(uri))
    assert ui_environment(uri)["MLFLOW_BACKEND_STORE_URI"] == uri


def test_a_server_is_not_served_again_and_its_password_not_told() -> None:
    with pytest.raises(ConfigError, match="is a server already") as caught:
        ui_command("https://me:hunter2@host")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_out_of_range_is_an_error(port: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not lie in"):
        ui_command(default_store(tmp_path), port=port)


def test_links_open_the_charts_where_there_are_any_and_the_list_otherwise() -> None:
    with_view, without = RunLocation("7", "r", "v"), RunLocation("7", "r")
    assert with_view.view_link("http://h/").startswith("http://h/#/experiments/7/runs?viewStateShareKey=v")
    assert without.view_link("http://h") == "http://h/#/experiments/7/runs"
    assert without.run_link("http://h") == "http://h/#/experiments/7/runs/r"
