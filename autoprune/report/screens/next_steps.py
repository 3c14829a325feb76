"""What to type next: whoever follows these lines gets from a search to a served model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.config.layout import FRONT_HTML, INCUMBENT
from autoprune.tracking.ui import RunLocation
from autoprune.tracking.uris import is_server, server_base

#: (what to type or open, what it does) pairs.
Steps = Sequence[tuple[str, str]]

#: Where `mlflow models serve` is told to listen; 5000 is the port of `autoprune ui`.
SERVE_PORT = 5001


def after_search(summary: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Returns the steps after a search: only what works on this one.

    Args:
        summary: the content of `summary.json`.
        folder: the run folder.
    """
    run = shlex.quote(str(folder))
    number = (summary.get("incumbent") or {}).get("id")
    tracking = summary.get("tracking") or {}
    chosen = "N" if number is None else str(number)
    steps = [(f"autoprune report {run}", "the whole search on one page")]
    steps += [(_charts(tracking) or f"autoprune ui {run}", "all candidates in MLflow")] if tracking else []
    if number is not None:
        register = " --register NAME" if tracking else ""
        steps += [(f"autoprune pick {run} --id {chosen}{register}", "any candidate as a network to serve")]
    steps += [(str(folder / FRONT_HTML), "all candidates in a browser; a click copies the pick command")]
    if number is not None and not summary.get("interrupted"):
        steps += [(f"autoprune export {run} --format onnx", "the incumbent for other runtimes")]
        steps += [(f'autoprune.load("{folder / INCUMBENT}")', "the incumbent, in Python")]
    return steps


def _charts(tracking: Mapping[str, Any]) -> str | None:
    """Returns the address of the charts on a server; None where `autoprune ui` has to serve them first."""
    uri, experiment, run = (str(tracking.get(key)) for key in ("uri", "experiment_id", "run_id"))
    return RunLocation(experiment, run, tracking.get("view_id")).view_link(server_base(uri)) if is_server(uri) else None


def after_prune(folder: Path) -> list[tuple[str, str]]:
    """Returns the steps after a single method has pruned a network."""
    run = shlex.quote(str(folder))
    return [
        (f"autoprune report {run}", "what was kept, on one page"),
        (f"autoprune evaluate {run}", "its test figures again"),
        (f"autoprune finetune {run} --epochs 10", "recover more accuracy"),
        (f"autoprune export {run} --format onnx", "the network for other runtimes"),
        (f'autoprune.load("{folder / INCUMBENT}")', "the network, in Python"),
    ]


def after_pick(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the steps after a candidate was picked; `entry` is what `searching.delivery.picking.pick` returns."""
    folder, logged = str(entry["directory"]), entry.get("mlflow")
    steps = [
        (f'autoprune.load("{folder}")', "the network, in Python"),
        (f"autoprune export {shlex.quote(folder)} --format onnx", "the network for other runtimes"),
    ]
    if not logged:
        return steps
    if logged["name"] is None:
        again = f"autoprune pick {shlex.quote(str(entry['run']))} --id {entry['id']} --register NAME"
        steps += [(again, "a name in the model registry")]
    address, model = str(logged["uri"]), str(logged["model_uri"])
    request = shlex.quote(str(entry["request"]))
    serve = f"mlflow models serve -m {shlex.quote(model)} --env-manager local --port {SERVE_PORT}"
    ask = f"curl -H 'Content-Type: application/json' -d @{request} http://127.0.0.1:{SERVE_PORT}/invocations"
    return [
        *steps,
        (f"export MLFLOW_TRACKING_URI={shlex.quote(address)}", "where MLflow finds it"),
        (f'mlflow.pytorch.load_model("{model}")', "in Python, without autoprune"),
        (serve, f"serves it on 127.0.0.1:{SERVE_PORT}"),
        (ask, "asks it about one image"),
    ]


def step_lines(steps: Steps, *, width: int = 58) -> list[str]:
    """Returns the steps as lines of text: what to type is never broken, for it is copied."""
    lines = ["Next:"] if steps else []
    for command, purpose in steps:
        if len(command) <= width:
            lines.append(f"  {command:<{width}}  {purpose}")
        else:
            lines += [f"  {command}", f"  {'':<{width}}  {purpose}"]
    return lines
