"""autoprune as a library: live networks, loaders, and saved networks in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import autoprune
from autoprune.report.observer import NullObserver
from autoprune.searching.search.api import resume_search

TOY = Path(__file__).parent / "searching"
sys.path.insert(0, str(TOY))

QUICK = {"backend": "serial", "no_mlflow": True, "candidates": 4, "finetune_epochs": 0}

SCRIPT = """
import json, sys
import torch
from torch import nn
from toy_problem import Block, loaders
import autoprune


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Conv2d(1, 8, 3, padding=1), Block(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.block(torch.relu(self.stem(x))).mean((2, 3)))


if __name__ == "__main__":
    torch.manual_seed(0)
    options = json.loads(sys.argv[1])
    result = autoprune.search(Mine(), loaders(), candidates=6, finetune_epochs=0, no_mlflow=True, **options)
    network = result.incumbent.build()
    images = torch.rand(3, 1, 8, 8)
    again = autoprune.load(result.incumbent.directory, model=Mine())
    same = torch.equal(network(images), again(images))
    print(json.dumps([result.summary["failures"], result.summary["workers"], same]))
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("AUTOPRUNE_DATA_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def in_a_fresh_process(code, *arguments):
    paths = os.pathsep.join([str(TOY), str(Path(autoprune.__file__).parents[1])])
    finished = subprocess.run(
        [sys.executable, code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


def test_a_live_network_and_two_loaders_are_searched():
    from toy_problem import loaders, network

    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = autoprune.search(model, loaders(), budget="50%flops", out="run", **QUICK)
    assert result.summary["model"] == "Network"
    assert result.incumbent.evaluation.candidate.cost.macs <= 0.5 * result.summary["dense"]["macs"]
    assert len(result.front) >= 1
    # The caller's network is as it was.
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


class Locked(torch.nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model, train, test: (model, (train, [])), "test set of 'custom' is empty"),
        (lambda model, train, test: (model, train), r"give a pair \(training set, test set\)"),
        (lambda model, train, test: (model, 7), "The data are a int. Give a name, "),
        (lambda model, train, test: (Locked(2, 2), (train, test)), "Locked cannot be copied: TypeError: cannot pickle"),
        (
            lambda model, train, test: (model, [(torch.zeros(9, 1, 8), torch.zeros(9).long())] * 2),
            "must be a float tensor",
        ),
        (
            lambda model, train, test: (model, [(torch.zeros(9, 1, 8, 8), torch.arange(9) + 1)] * 2),
            "labels count from 0",
        ),
    ],
)
def test_objects_that_do_not_fit_are_one_line(change, message):
    from toy_problem import loaders, network

    model, data = change(network(), *loaders())
    with pytest.raises(autoprune.AutopruneError, match=message) as raised:
        autoprune.search(model, data, **QUICK)
    assert "\n" not in str(raised.value)


def test_a_validation_set_scores_and_is_not_learnt_from(tmp_path, monkeypatch):
    from toy_problem import loaders, network

    train, test = loaders()
    validation = loaders()[1]
    learnt = []
    monkeypatch.setattr(
        "autoprune.searching.search.finish.train",
        lambda model, images, indices, *args, **options: learnt.append((images, sorted(indices))),
    )
    result = autoprune.search(network(), (train, validation, test), **{**QUICK, "finetune_epochs": 0.1}, out="run")
    images = result.summary["images"]
    assert (images["holdout"], images["training"]) == (len(validation.dataset), len(train.dataset))
    assert any("images of the validation set" in note for note in result.summary["notes"])
    assert not any("may have seen" in note for note in result.summary["notes"])
    assert learnt
    assert all(len(found) == len(train.dataset) and indices == list(range(len(found))) for found, indices in learnt)
    with pytest.raises(autoprune.AutopruneError, match=r"are 4 sets\. Give"):
        autoprune.search(network(), (train, validation, test, test), **QUICK, out="four")


def test_a_named_network_loads_in_a_fresh_process_and_a_live_one_says_what_it_needs(tmp_path):
    from toy_problem import loaders, network

    named = autoprune.search("toy_problem:network", "toy_problem:sets", out="named", **QUICK)
    code = tmp_path / "load.py"
    code.write_text(
        "import autoprune, sys; m = autoprune.load(sys.argv[1]); print(sum(p.numel() for p in m.parameters()))"
    )
    shown = in_a_fresh_process(str(code), str(named.incumbent.directory))
    assert int(shown) == named.summary["incumbent"]["params"]
    live = autoprune.search(network(), loaders(), out="live", **QUICK)
    with pytest.raises(autoprune.AutopruneError, match=r"model=\.\.\."):
        autoprune.load(live.incumbent.directory)


def test_the_same_call_goes_on_with_the_search_in_its_folder():
    from toy_problem import loaders, network

    first = autoprune.search(network(), loaders(), out="run", **QUICK)
    lines = Path("run/ledger.jsonl").read_bytes()
    second = autoprune.search(network(), loaders(), out="run", **QUICK)
    assert Path("run/ledger.jsonl").read_bytes() == lines
    assert first.summary["incumbent"] == second.summary["incumbent"]
    with pytest.raises(autoprune.AutopruneError, match="started in Python with its own model and data"):
        resume_search(Path("run"), observer=NullObserver())


def test_budgets_may_be_objects_and_a_front_needs_none():
    from toy_problem import loaders, network

    result = autoprune.search(network(), loaders(), budget=autoprune.Budget.parse("60%params"), **QUICK)
    assert result.summary["budget"] == ["60%params"]
    assert autoprune.search(network(), loaders(), front="40..80%flops", **QUICK).summary["budget"] == ["40..80%flops"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidats": 3}, "Unknown option 'candidats' of autoprune.search. Did you mean 'candidates'?"),
        ({"workers": 0}, "workers is 0, but must be at least 1"),
        ({"candidates": 0}, "candidates is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"strategy": "unifrom"}, "Did you mean 'uniform'"),
        ({"backend": "rya"}, "Did you mean 'ray'"),
        ({"scope": "inside"}, "unknown name 'inside'"),
        ({"budget": "50%"}, "Cannot read the budget"),
        ({"budget": 50}, "The budget is 50, a int. Write a text such as '50%flops'"),
        ({"budget": ["50%flops", 3]}, "The budget is 3, a int"),
        ({"observer": 5}, "The observer is a int without the method 'stage'"),
        ({"budget": "20..80%flops"}, "is a range"),
        ({"weights": "w.pt"}, "brings its own weights"),
        ({"time_limit": -1}, "time_limit is -1"),
        ({"data_root": "nowhere"}, "does not exist"),
    ],
)
def test_a_wrong_option_is_one_clear_error(options, message):
    from toy_problem import loaders, network

    with pytest.raises(autoprune.AutopruneError, match=message) as raised:
        autoprune.search(network(), loaders(), **options)
    assert "\n" not in str(raised.value)
    assert list(Path.cwd().iterdir()) == []


def test_a_class_of_the_main_script_is_searched_and_loaded(tmp_path):
    code = tmp_path / "script.py"
    code.write_text(SCRIPT)
    shown = in_a_fresh_process(str(code), json.dumps({"backend": "serial"}))
    assert json.loads(shown) == [0, 1, True]


@pytest.mark.ray
@pytest.mark.slow
def test_a_class_of_the_main_script_reaches_ray_workers(tmp_path):
    code = tmp_path / "script.py"
    code.write_text(SCRIPT)
    shown = in_a_fresh_process(str(code), json.dumps({"workers": 2}))
    assert json.loads(shown.splitlines()[-1]) == [0, 2, True]
    assert len(shown.splitlines()) == 1


@pytest.mark.ray
@pytest.mark.slow
def test_one_ray_worker_finds_what_the_serial_backend_finds():
    shared = {key: value for key, value in QUICK.items() if key != "backend"}

    def found(backend, **options):
        result = autoprune.search(
            "toy_problem:network", "toy_problem:sets", backend=backend, out=backend, **shared, **options
        )
        lines = [json.loads(line) for line in Path(backend, "ledger.jsonl").read_text().splitlines()[1:]]
        unlike = ("seconds", "check", "worker")
        return result.summary["incumbent"], [
            {key: value for key, value in line.items() if key not in unlike} for line in lines
        ]

    assert found("serial") == found("ray", workers=1)


def test_a_compiled_network_is_searched_as_what_it_was_compiled_from():
    from toy_problem import loaders, network

    def never(graph, example):
        raise AssertionError("our own passes must not be compiled")

    compiled = torch.compile(network(), backend=never)
    found = autoprune.search(compiled, loaders(), out="compiled", **QUICK)
    plain = autoprune.search(network(), loaders(), out="plain", **QUICK)
    assert found.summary["model"] == "Network"
    assert found.summary["incumbent"]["widths"] == plain.summary["incumbent"]["widths"]
    again = autoprune.load(found.incumbent.directory, model=torch.compile(network(), backend=never))
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(images), found.incumbent.build()(images))
