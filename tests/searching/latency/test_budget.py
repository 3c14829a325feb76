"""Budgets on latency: what is measured, what is predicted from it, and what a resumed search knows of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_problem import network as toy_network

from autoprune.errors import BudgetError, RunError
from autoprune.models.cutting.surgery import cut, random_kept
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import random_structure
from autoprune.searching.latency import budget
from autoprune.searching.latency.budget import LatencyMeter, LatencyRecord, Setting
from autoprune.searching.latency.timing import Effort
from autoprune.searching.search import latency

QUICK = Effort(warm_up=1, repeats=3, most_repeats=3)
SHAPES = {"toy": (1, 8, 8), "depthwise": (3, 12, 12), "tokens": (3, 12, 12), "transposed and resized": (3, 12, 12)}


def built(name):
    from tests.models.toy_networks import toy

    return toy_network() if name == "toy" else toy(name)


def meter_of(model, shape, batch=1):
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    return LatencyMeter(model, trace(model, image), image, Setting.here("cpu", threads=1, batch=batch))


@pytest.fixture
def quick(monkeypatch):
    """Measures three passes of each."""
    for name in ("LAYERS", "NETWORKS"):
        monkeypatch.setattr(budget, name, QUICK)


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("batch", [1, 3])
def test_every_call_can_be_run_alone_at_every_width_of_its_table(name, batch):
    meter = meter_of(built(name), SHAPES[name], batch)
    memory = torch.randn(max(max(shape.size) for shape in meter.points()))
    for shape in meter.points():
        out = shape.call(memory)()
        assert out.shape[1 if shape.kernel else -1] == shape.out
        assert torch.isfinite(out).all()
    assert len({shape.key for shape in meter.points()}) == len(meter.points())


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_calls_of_a_cut_network_are_those_that_widths_foretell(name):
    model, shape = built(name), SHAPES[name]
    dense = meter_of(model, shape)
    traced = trace(model, torch.zeros(1, *shape))
    rng = np.random.default_rng(0)
    structure = random_structure(traced, rng)
    small = meter_of(cut(model, traced, random_kept(traced, structure, rng)), shape)
    foretold = [layer.at(layer.inner.of(structure.widths), layer.out.of(structure.widths)) for layer in dense.layers]
    assert foretold == [layer.shape for layer in small.layers]


def test_latencies_that_follow_the_model_are_predicted_to_the_nanosecond(monkeypatch):
    """A machine that takes a nanosecond for a multiply-accumulate and seven for everything else."""
    from autoprune.models.costing.counting import count

    def timed(passes, effort, *, device):
        with torch.inference_mode(False):
            return {
                name: [1e-9 * (7 + count(run.func, (1, 1, 8, 8)).macs if hasattr(run, "func") else macs_of[name])] * 3
                for name, run in passes.items()
            }

    meter = meter_of(built("toy"), SHAPES["toy"])
    macs_of = {shape.key: shape.size[1] * (64 if shape.kernel else 1) for shape in meter.points()}
    monkeypatch.setattr(budget, "timed", timed)
    record = meter.measured({}, seed=0)
    assert record.error < 1e-3
    assert record.scale == pytest.approx(1.0, abs=1e-3)


def test_points_that_are_known_are_not_measured_again(quick):
    meter = meter_of(built("toy"), SHAPES["toy"])
    known = {shape.key: 1000.0 for shape in meter.points()}
    assert meter.measured(known, seed=0).points == known


def test_a_record_comes_back_as_it_was_and_predicts_the_same(quick):
    meter = meter_of(built("toy"), SHAPES["toy"])
    record = meter.measured({}, seed=0)
    again = LatencyRecord.from_json(json.loads(json.dumps(record.to_json())))
    assert again == record
    widths = [[3.0] * len(trace(built("toy"), torch.zeros(1, 1, 8, 8)).groups)]
    assert meter.predicting(again).relaxed(widths) == meter.predicting(record).relaxed(widths)


@pytest.mark.parametrize("change", [{"points": {"conv": -1.0}}, {"scale": "fast"}, {"checks": []}, {"setting": {}}])
def test_a_record_that_is_none_is_refused(quick, change):
    values = meter_of(built("toy"), SHAPES["toy"]).measured({}, seed=0).to_json()
    with pytest.raises(RunError, match=r"Search anew"):
        LatencyRecord.from_json({**values, **change})


def test_a_search_holds_its_latency_and_resumes_with_the_recorded_one(toy, quick, monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOPRUNE_CACHE_DIR", str(tmp_path / "cache"))
    usual = {"budgets": ("95%latency", "80%params"), "latency_batch": 8, "latency_threads": 1, "scope": "coupled"}
    summary = toy(candidates=4, **usual).summary
    assert [limit["met"] for limit in summary["limits"]] == [True, True]
    latency = summary["latency"]
    assert (latency["batch"], latency["threads"], latency["device"]) == (8, 1, "cpu")
    assert set(latency["networks"]) == {"dense", "incumbent", "uniform"}
    assert latency["networks"]["incumbent"]["predicted"] == summary["incumbent"]["latency"]
    assert all(one["measured"] > 0 for one in latency["networks"].values())

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(LatencyMeter, "measured", never)
    again = toy(candidates=4, **usual).summary
    assert again["latency"]["checks"] == latency["checks"]
    assert again["dense"]["latency"] == summary["dense"]["latency"]
    assert again["incumbent"]["widths"] == summary["incumbent"]["widths"]


def test_an_unreachable_latency_says_what_can_be_reached(toy, quick):
    with pytest.raises(BudgetError, match=r"'1ns' \(1 ns\) cannot be reached.* ns .*remain"):
        toy(budgets=("1ns",), latency_threads=1)


def test_quiet_measurements_are_kept_for_the_next_search_and_noisy_ones_are_not(quick, monkeypatch, tmp_path):
    from autoprune.report.observer import NullObserver
    from autoprune.searching.inputs.options import SearchOptions

    monkeypatch.setenv("AUTOPRUNE_CACHE_DIR", str(tmp_path))
    model = built("toy")
    traced = trace(model, torch.zeros(1, 1, 8, 8))
    setting = Setting.here("cpu", threads=1, batch=1)
    spread = [0.9]
    measured = LatencyMeter.measured
    seen = []

    def watched(self, known, *, seed):
        seen.append(len(known))
        return replace(measured(self, known, seed=seed), spread=spread[-1])

    monkeypatch.setattr(LatencyMeter, "measured", watched)
    for noise in (0.9, 0.01, 0.01):
        spread.append(noise)
        latency.with_latency(model, traced, SearchOptions(), setting=setting, recorded=None, observer=NullObserver())
    assert seen[:2] == [0, 0]
    assert seen[2] > 0


def test_everything_takes_turns_in_another_order_each_time():
    from autoprune.searching.latency.timing import timed

    order = []
    passes = {str(name): lambda name=name: order.append(name) for name in range(5)}
    found = timed(passes, Effort(warm_up=2, repeats=6, most_repeats=6, seconds=0.0), device="cpu")
    turns = [tuple(order[start : start + 5]) for start in range(0, len(order), 5)]
    assert all(sorted(turn) == list(range(5)) for turn in turns)
    assert len(set(turns)) > 2
    assert {len(times) for times in found.values()} == {6}
