"""The MLflow page of a real search in a real browser: candidates, their charts, the front page, the live curves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from autoprune.cli.edge import run
from autoprune.tracking.ui import RunLocation, ui_command, ui_environment
from tests.browser.chromium import browser

pytestmark = pytest.mark.browser

TOYS = Path(__file__).parents[1] / "searching"


@contextlib.contextmanager
def served(store, port, log):
    """Runs `autoprune ui`'s server as long as the block lasts."""
    with (
        log.open("w") as output,
        subprocess.Popen(
            ui_command(store, port=port),
            env={**os.environ, **ui_environment(store)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as server,
    ):
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, 15)


def reached(page, base):
    """Opens the server's page as soon as there is one."""
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(base.rpartition(":")[2])), 1):
            page.open(f"{base}/#/experiments")
            if page.ask("document.title") == "MLflow":
                return
        page.ask("new Promise(done => setTimeout(done, 200))")
    pytest.fail("the server did not come up")


def test_a_search_is_seen_in_mlflow_without_any_setting_up(tmp_path, empty_store, monkeypatch):
    monkeypatch.syspath_prepend(str(TOYS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("autoprune.searching.search.preparation.usable_cores", lambda: 1)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, "runs/mlflow.db")
    network = ["--model", "toy_problem:network", "--data", "toy_problem:sets", "--backend", "serial"]
    assert run(["search", *network, "--candidates", "6", "--finetune-epochs", "0", "--out", "runs/toy"]) == 0
    tracking = json.loads(Path("runs/toy/summary.json").read_text())["tracking"]
    location = RunLocation(tracking["experiment_id"], tracking["run_id"], tracking["view_id"])

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with served(tracking["uri"], port, tmp_path / "server.log") as base, browser(tmp_path / "profile") as page:
        reached(page, base)
        page.open(location.view_link(base), width=1600, height=1000)
        page.wait("document.body.innerText.includes('Hold-out accuracy against cost')")
        page.wait("document.querySelectorAll('.js-plotly-plot .scatterlayer path.point').length >= 6")
        said = page.ask("document.body.innerText")
        assert "000 uniform" in said
        # The front is painted in a colour of its own.
        assert "#d1500a" in said
        assert "#a3adb9" in said
        page.picture(tmp_path / "charts.png")

        page.open(f"{location.run_link(base)}/artifacts/front.html", width=1600, height=1000)
        page.wait("!!document.querySelector('iframe')")
        # The frame is sandboxed: what it was given can be asked for, what it made of it is on the picture.
        shown = page.ask("fetch(document.querySelector('iframe').src).then(answer => answer.text())")
        assert shown == Path("runs/toy/front.html").read_text()
        page.picture(tmp_path / "artifact.png")

        # High enough for every curve: those out of sight are not drawn, and have no name.
        page.open(f"{location.run_link(base)}/model-metrics", width=1600, height=5000)
        for name in ("hypervolume", "incumbent.holdout_accuracy"):
            page.wait(f"document.body.innerText.includes('{name}')")
        page.wait("document.querySelectorAll('.js-plotly-plot .scatterlayer path').length > 0")
        page.picture(tmp_path / "curves.png")
