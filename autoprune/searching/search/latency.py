"""Latency in a search: measured before it, unless a cache or a ledger has the figures, and checked at its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.core.files import atomic_write_text
from autoprune.core.structure import Structure
from autoprune.errors import AutopruneError
from autoprune.models.network import TracedNetwork
from autoprune.report.observer import Observer
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.latency.budget import Check, LatencyMeter, LatencyRecord, Setting
from autoprune.searching.latency.timing import torch_threads
from autoprune.training.default import default_cache_dir

if TYPE_CHECKING:
    from autoprune.searching.search.preparation import Prepared


def with_latency(
    model: nn.Module,
    network: TracedNetwork,
    options: SearchOptions,
    *,
    setting: Setting,
    recorded: Any,
    observer: Observer,
) -> tuple[TracedNetwork, LatencyRecord]:
    """Returns the network with latency among its costs, and what was measured.

    Args:
        model: the dense network, on the CPU.
        network: its trace.
        options: for the seed.
        setting: of this machine.
        recorded: what the ledger of the same search holds, which is then not measured again; None for none.
        observer: hears of it.

    Raises:
        RunError: the record is of no use.
        ModelError: the network has no layers to measure.
    """
    image = _image(network)
    if recorded is not None:
        record = LatencyRecord.from_json(recorded)
        meter = LatencyMeter(model, network, image, record.setting)
    else:
        meter = LatencyMeter(model, network, image, setting)
        observer.stage(f"Measuring the latency of layers on {described(setting)}")
        with torch_threads(setting.threads):
            record = meter.measured(_known(setting), seed=options.seed)
        if record.steady:
            _keep(setting, record.points)
        else:
            observer.warning(
                f"The machine was busy while latency was measured: passes spread by {100 * record.spread:.0f} %. "
                "The figures are used but not kept for other searches. Measure on a quiet machine if you can."
            )
    cost_model = network.cost_model.with_form("latency", meter.predicting(record))
    return replace(network, cost_model=cost_model), record


def latency_entry(
    prepared: Prepared, structures: Mapping[str, Structure], observer: Observer | None = None
) -> dict[str, Any] | None:
    """Returns what `summary.json` says of latency: where, how wrong predictions are, and named networks measured.

    Args:
        prepared: the search.
        structures: networks to cut and measure, by name; none for what is recorded alone.
        observer: hears of it.
    """
    record = prepared.latency
    if record is None:
        return None
    entry: dict[str, Any] = {
        **asdict(record.setting),
        "layers": len(record.points),
        "error": record.error,
        "checks": [{**asdict(check), "error": check.error} for check in record.checks],
        "spread": record.spread,
        "steady": record.steady,
        "networks": {},
    }
    setting = record.setting
    if structures and usable(setting.device):
        if observer is not None:
            observer.stage(f"Measuring the latency of the networks on {described(setting)}")
        meter = LatencyMeter(prepared.problem.model.cpu(), prepared.network, _image(prepared.network), setting)
        with torch_threads(setting.threads):
            times, spread = meter.time_networks(structures)
        for name, structure in structures.items():
            check = Check(prepared.space.cost(structure).of("latency"), round(times[name]))
            entry["networks"][name] = {**asdict(check), "error": check.error}
        here = Setting.here(setting.device, threads=setting.threads, batch=setting.batch)
        entry.update(measured_on=here.machine, measured_spread=spread)
    return entry


def described(setting: Setting) -> str:
    """Returns the setting for people."""
    images = f"{setting.batch} image{'s' if setting.batch != 1 else ''}"
    threads = f", {setting.threads} thread{'s' if setting.threads != 1 else ''}" if setting.device == "cpu" else ""
    return f"{setting.device}, {images} at a time{threads}"


def usable(device: str) -> bool:
    """Returns whether tensors can be put there: a search may be resumed on a machine without its GPU."""
    try:
        torch.empty(0, device=device)
    except Exception:  # torch answers with AssertionError, RuntimeError or NotImplementedError
        return False
    return True


def _image(network: TracedNetwork) -> torch.Tensor:
    return torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(0))


def _file(setting: Setting) -> Path:
    named = json.dumps(asdict(setting), sort_keys=True)
    return default_cache_dir() / "latency" / f"{hashlib.sha256(named.encode()).hexdigest()[:16]}.json"


def _known(setting: Setting) -> dict[str, float]:
    """Returns the points that were measured in the same setting before; none where the file is of no use."""
    try:
        content = json.loads(_file(setting).read_text(encoding="utf-8"))
        points = {str(key): float(value) for key, value in content["points"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return points if content.get("setting") == asdict(setting) and min(points.values(), default=0) > 0 else {}


def _keep(setting: Setting, points: Mapping[str, float]) -> None:
    """Adds points to the cache; one that cannot be written is no reason to stop."""
    path = _file(setting)
    with suppress(OSError, AutopruneError):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"setting": asdict(setting), "points": {**_known(setting), **points}}
        atomic_write_text(path, json.dumps(content, indent=1) + "\n")
