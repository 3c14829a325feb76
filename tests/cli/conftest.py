"""A search that takes no time: the command line is tested against the names it calls, not against a real search."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# What resumes a search has the real options, whatever replaces them later.
from autoprune.searching.inputs import recorded  # noqa: F401

SUMMARY = {"format": 1, "model": "digits/resnet", "interrupted": False, "incumbent": {"accuracy": 0.97}}


TRAINING = {
    "kind": "train",
    "model": "digits/resnet",
    "data": "digits",
    "folder": "runs/training",
    "epochs": 1,
    "history": [{"epoch": 1, "learning_rate": 0.1, "train_loss": 1.5, "holdout_accuracy": 0.5}],
    "best": {"epoch": 1, "holdout_accuracy": 0.5},
    "holdout_accuracy": 0.5,
    "accuracy": 0.5,
    "accuracy_before": None,
}

PICKED = {
    "id": 17,
    "proposed_by": "auto",
    "accuracy": 0.97,
    "accuracy_before_finetune": None,
    "holdout_accuracy": 0.98,
    "macs": 1,
    "params": 1,
    "directory": "runs/first/picked-17",
    "request": "runs/first/picked-17/request.json",
    "mlflow": None,
}


@dataclass
class _Display:
    candidates: int
    time_limit: float | None = None
    closed: bool = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closed = True


@dataclass
class FakeSearch:
    """Stands for `autoprune.searching`: records the calls; `raises` is raised, `report` is what inspections return."""

    calls: list = field(default_factory=list)
    displays: list = field(default_factory=list)
    raises: BaseException | None = None
    summary: dict = field(default_factory=lambda: dict(SUMMARY))
    report: dict = field(default_factory=dict)
    out: Path = Path("runs/somewhere")

    def call(self, name, *args, **kwargs):
        self.calls.append((name, args, kwargs))
        if self.raises is not None:
            raise self.raises

    def live_progress(self, *, candidates, time_limit=None):
        self.displays.append(_Display(candidates, time_limit))
        return self.displays[-1]

    def result(self):
        return types.SimpleNamespace(summary=self.summary, out=self.out, require_found=lambda: None)

    def run_search(self, options, *, observer):
        self.call("run_search", options, observer=observer)
        return self.result()

    def trace_report(self, options, *, verify):
        self.call("trace_report", options, verify=verify)
        return self.report

    def search_space_of(self, report, *, multiple_of):
        return f"multiple_of = {multiple_of}\n"

    def cost_report(self, model, widths, *, data, data_root, convention):
        self.call("cost_report", model, widths, data=data, data_root=data_root, convention=convention)
        return self.report

    def train(self, options, observer):
        self.call("train", options)
        return dict(TRAINING)

    def prune(self, options, chosen, observer, *, budgeted):
        self.call("prune", options, chosen, budgeted=budgeted)
        return {**self.summary, "folder": "runs/pruned"}

    def report_run(self, run, observer, *, out, latency, repeats, optuna, tensorboard):
        self.call("write_report", run)
        found = {"agreement": None, "latency": None, "over_seeds": [], "notes": [], "page": "report.html"}
        return {**found, "pictures": []}

    def compare_runs(self, runs, *, out):
        self.call("write_comparison", runs)
        return {"runs": [], "over_seeds": [], "page": "compare.html"}

    def export_saved(self, directory, options, observer):
        self.call("export_saved", directory, options)
        return []

    def pick(self, run, choice, *, observer, out, finetune_epochs, registration, aside):
        self.call("pick", run, choice, registration=registration)
        return {**PICKED, "run": str(run)}

    def check_proxies(self, options, wanted, observer):
        self.call("check_proxies", options, wanted)
        finetune = {
            "epochs": 2.0,
            "lowest": 0.8,
            "highest": 0.9,
            "images": 100,
            "sampling_error": 0.01,
            "as_score": None,
        }
        return {
            "structures": 12,
            "budget": ["50%flops"],
            "min_tau": 0.7,
            "recommended": None,
            "out": "runs/proxy",
            "finetune": finetune,
            "proxies": [],
            "failures": [],
        }

    def evaluate_saved(self, directory, **named):
        self.call("evaluate_saved", directory, **named)
        return self.report


class _Options(types.SimpleNamespace):
    """Stands for `SearchOptions`."""

    candidates = 60
    time_limit = None


def _module(name, **attributes):
    module = types.ModuleType(name)
    vars(module).update(attributes)
    return module


@pytest.fixture
def fake_search(monkeypatch, tmp_path):
    """Replaces the search, the display and the summary; the working directory is empty."""
    fake = FakeSearch()
    modules = [
        _module("autoprune.searching.search.api", run_search=fake.run_search),
        _module("autoprune.searching.inputs.options", SearchOptions=_Options),
        _module(
            "autoprune.searching.inspection.networks",
            trace_report=fake.trace_report,
            search_space_of=fake.search_space_of,
            cost_report=fake.cost_report,
            evaluate_saved=fake.evaluate_saved,
        ),
        _module("autoprune.searching.delivery.picking", Choice=types.SimpleNamespace, pick=fake.pick),
        _module("autoprune.searching.delivery.registering", Registration=types.SimpleNamespace),
        _module(
            "autoprune.searching.inspection.reporting", write_report=fake.report_run, write_comparison=fake.compare_runs
        ),
        _module("autoprune.searching.delivery.pruning", MethodOptions=types.SimpleNamespace, prune=fake.prune),
        _module("autoprune.searching.delivery.exporting", export_saved=fake.export_saved),
        _module(
            "autoprune.searching.experiments.proxies",
            ProxyOptions=types.SimpleNamespace,
            check_proxies=fake.check_proxies,
        ),
        _module("autoprune.searching.trainings.training", train_network=fake.train),
        _module("autoprune.searching.trainings.finetuning", finetune=fake.train),
        _module("autoprune.report.screens.live", LiveProgress=fake.live_progress),
        _module(
            "autoprune.report.screens.summary",
            render_summary=lambda summary: repr(summary),
            plain_summary=lambda summary: "the table",
        ),
    ]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("autoprune.cli.quiet.hush_libraries", lambda: None)
    monkeypatch.delenv("AUTOPRUNE_DEBUG", raising=False)
    monkeypatch.delenv("AUTOPRUNE_DATA_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return fake
