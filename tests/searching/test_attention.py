"""Searching and pruning a network with attention, as an object and by a factory's name."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import toy_problem

import autoprune
from autoprune.models.modules.attention import HeadAttention
from autoprune.report.observer import NullObserver
from autoprune.searching.delivery.pruning import MethodOptions, prune
from autoprune.searching.inputs.options import SearchOptions

HEADS = "layer.self_attn.in_proj"


def test_a_search_by_name_cuts_heads_and_its_network_is_loaded_by_that_name(toy):
    toy(model="toy_problem:transformer", budgets=("60%flops",), finetune_epochs=1.0)
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["incumbent"]["macs"] <= 0.6 * summary["dense"]["macs"]
    network = autoprune.load("run/incumbent")
    attention = network.layer.self_attn
    assert isinstance(attention, HeadAttention)
    widths = json.loads(Path("run/incumbent/structure.json").read_text())["widths"]
    assert attention.num_heads == widths[HEADS]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, toy_problem.CLASSES)


def test_a_search_leaves_the_network_object_as_it_was_and_load_takes_it_back(folder):
    model = toy_problem.transformer()
    before = copy.deepcopy(model.state_dict())
    result = autoprune.search(
        model,
        toy_problem.sets(),
        budget="50%flops",
        candidates=4,
        finetune_epochs=0,
        backend="serial",
        no_mlflow=True,
        out="run",
    )
    assert type(model.layer.self_attn) is torch.nn.MultiheadAttention
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    again = autoprune.load("run/incumbent", model=toy_problem.transformer())
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(again(x), result.incumbent.build()(x))


@pytest.mark.parametrize("method", [
    "fpgm", "taylor", "hrank", "eprune", "ccm", "pca", "acp",
])  # fmt: skip
def test_methods_decide_on_heads_as_on_channels(folder, method):
    options = SearchOptions(
        model="toy_problem:transformer", data="toy_problem:sets", out=folder / "out", budgets=("60%flops",),
        finetune_epochs=0.0,
    )  # fmt: skip
    prune(options, MethodOptions(method=method), NullObserver(), budgeted=True)
    summary = json.loads((folder / "out/summary.json").read_text())
    assert summary["incumbent"]["macs"] <= 0.6 * summary["dense"]["macs"]
    assert 1 <= autoprune.load(folder / "out/incumbent").layer.self_attn.num_heads <= 4
