from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from autoprune.errors import ConfigError
from autoprune.models.modules.randomising import FittedNorms, randomise
from autoprune.searching.coverage import covering
from autoprune.searching.coverage.covering import PASSED, as_entry, cover, models_of
from autoprune.searching.coverage.files import CoverageFile, read_coverage, write_page

WIDTH = 8


class Fine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Written(Fine):
    """Writes a width into its forward."""

    def forward(self, x):
        x = self.body[3](self.body[2](self.body[1](self.body[0](x)).reshape(len(x), 8, -1, 1)).expand(-1, -1, -1, 3))
        return self.head(x.mean((2, 3)))


class Uncuttable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.only(x)


def broken() -> nn.Module:
    raise ValueError("no such thing")


class Twice(Fine):
    """Answers with one tensor twice."""

    def forward(self, x):
        found = super().forward(x)
        return found, {"again": found}


def talkative() -> nn.Module:
    print("Building a network.")
    return Fine()


def results_of(*factories: str):
    torch.manual_seed(0)
    told = []
    found = cover([f"tests.searching.coverage.test_covering:{name}" for name in factories], tell=told.append)
    assert told == found
    return found


@pytest.fixture(scope="module")
def results():
    return results_of("Fine", "Written", "broken", "Uncuttable")


def test_a_factory_that_prints_is_heard_by_nobody_who_reads_answers():
    [found] = results_of("talkative")
    assert found.outcome == PASSED


def test_a_network_may_answer_with_a_tensor_twice():
    [found] = results_of("Twice")
    assert found.outcome == PASSED


def test_a_network_passes_all_the_way_to_another_process(results):
    fine = results[0]
    assert fine.outcome == PASSED
    assert (fine.groups, fine.half) == (2, True)
    assert fine.deviation < 1e-12
    assert fine.effect > 1e-3
    assert 0.4 < fine.retained <= 0.5
    assert fine.reachable > 0.9


def test_what_cannot_be_proved_is_frozen_and_the_rest_passes(results):
    written = results[1]
    assert written.outcome == PASSED
    assert written.groups == 1
    assert any("fails once it is cut" in item["reason"] for item in written.frozen)


def test_a_network_that_fails_is_a_line_and_no_end(results):
    assert "no such thing" in results[2].outcome
    assert results[3].outcome == "nothing can be cut"


def test_an_outcome_that_nothing_was_proved_by_is_no_pass(monkeypatch):
    monkeypatch.setattr(covering, "_SMALLEST_EFFECT", 1e9)
    assert "nothing is proved" in results_of("Fine")[0].outcome


def test_files_say_how_they_were_made_and_the_page_shows_them(results, tmp_path):
    file = CoverageFile("segmentation", "autoprune trace --all segmentation", tmp_path)
    for result in results:
        file.add(result)
    assert not json.loads((tmp_path / "segmentation.json").read_text())["complete"]
    content = file.finish()
    assert read_coverage(tmp_path) == [json.loads(json.dumps(content))]
    assert content["rows"] == [as_entry(result) for result in results]
    assert {"commit", "date", "hardware", "versions", "command"} <= set(content)
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert "2 of 4 networks pass, 2 can reach 50 % of their FLOPs" in page
    assert "no such thing" in page


def test_families_are_those_of_torchvision():
    assert len(models_of("torchvision")) >= 80
    assert "torchvision/fcn_resnet50" in models_of("segmentation")
    assert "torchvision/ssd300_vgg16" in models_of("detection")
    with pytest.raises(ConfigError, match=r"Unknown family 'torchvison'\. Did you mean"):
        models_of("torchvison")


def test_randomised_weights_leave_no_scale_tiny_and_no_shift_zero():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(5))
    nn.init.zeros_(model[1].weight)
    nn.init.constant_(model[2].weight, 1e-6)
    before = model[0].weight.clone()
    randomise(model, seed=0)
    assert torch.equal(model[0].weight, before)
    assert model[1].weight.abs().min() > 0
    assert model[2].weight.min() >= 0.5
    assert model[2].bias.abs().max() <= 0.2


def test_fitted_norms_normalise_what_they_read():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)).eval()
    x = torch.randn(2, 3, 5, 5) * 7 + 3
    with torch.no_grad(), FittedNorms(model):
        model(x)
    assert model(x).mean((0, 2, 3)).abs().max() < 1e-5
    before = model[1].running_mean.clone()
    model(x + 1)
    assert torch.equal(model[1].running_mean, before)
