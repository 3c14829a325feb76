from types import SimpleNamespace

import pytest
import torch
from torch import nn

from autoprune import devices
from autoprune.errors import DivergenceError
from autoprune.models.reduction.calibration import ROWS
from autoprune.models.tracing.tracer import trace
from autoprune.report.observer import NullObserver
from autoprune.searching.search import finish
from autoprune.searching.search.finish import final_rows
from autoprune.training.features import FeatureDistillation


@pytest.mark.parametrize(
    ("width", "rows"),
    [(8, 2 * ROWS), (5_000, 512 * 1024**2 // (4 * (5_000 + 2))), (9_000, ROWS)],
    ids=["narrow", "wide", "wider"],
)
def test_the_end_samples_as_many_rows_as_fit_into_memory_and_never_fewer_than_a_candidate(width, rows):
    network = nn.Sequential(nn.Conv2d(1, width, 1), nn.ReLU(), nn.Conv2d(width, 2, 1), nn.Flatten()).eval()
    assert final_rows(trace(network, torch.zeros(1, 1, 1, 1))) == rows


def failing_once(work, error, seen):
    """Returns the work, which raises an error when it is called first."""

    def called(*args, **kwargs):
        seen.append((args, kwargs))
        if len(seen) == 1:
            raise error
        return work(*args, **kwargs)

    return called


@pytest.mark.parametrize("place", ["calibrate", "cut_and_merge"])
def test_an_end_that_does_not_fit_a_gpu_is_reached_on_the_cpu(toy, monkeypatch, place):
    wanted, seen = toy("fits"), []
    monkeypatch.setattr(devices, "is_gpu", lambda device: True)
    monkeypatch.setattr(devices, "gpu_module", lambda device: SimpleNamespace(empty_cache=lambda: None))
    monkeypatch.setattr(finish, place, failing_once(getattr(finish, place), torch.OutOfMemoryError("full"), seen))
    found = toy("does-not")
    assert len(seen) > 1
    for name in ("uniform", "incumbent"):
        assert found.summary[name]["accuracy"] == wanted.summary[name]["accuracy"]


def test_a_finetune_that_does_not_fit_starts_again_with_half_the_batch(toy, monkeypatch):
    train, recipes, starts = finish.train, [], []

    def in_small_memory(model, images, indices, recipe, **options):
        recipes.append(recipe)
        starts.append({key: value.clone() for key, value in model.state_dict().items()})
        if len(recipes) == 1:
            nn.init.ones_(next(model.parameters()))  # a step or two may have been made
            raise RuntimeError("CUDA out of memory")
        return train(model, images, indices, recipe, **options)

    monkeypatch.setattr(finish, "train", in_small_memory)
    found = toy(finetune_epochs=0.2)
    assert [recipe.batch_size for recipe in recipes[:2]] == [recipes[0].batch_size, recipes[0].batch_size // 2]
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])
    assert found.summary["incumbent"]["accuracy"] > 0


def test_a_finetune_that_does_harm_is_undone(toy, monkeypatch):
    wanted = toy("untrained", finetune_epochs=0)

    def ruin(model, *args, **options):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()

    monkeypatch.setattr(finish, "train", ruin)
    monkeypatch.setattr(finish, "_LARGEST_LOSS", -1.0)  # the toy networks have learnt nothing they could lose
    found = toy("ruined", finetune_epochs=0.2)
    for name in ("uniform", "incumbent"):
        assert found.summary[name]["accuracy"] == wanted.summary[name]["accuracy"]
        assert found.summary[name]["accuracy_before_finetune"] is None


class Warned(NullObserver):
    def __init__(self):
        self.texts = []

    def warning(self, text):
        self.texts.append(text)


def test_a_finetune_that_the_network_does_not_bear_loses_nothing(toy, monkeypatch):
    wanted, heard = toy("untrained", finetune_epochs=0), Warned()

    def break_off(model, *args, **options):
        model.train()
        nn.init.zeros_(next(model.parameters()))
        raise ValueError("optimizer got an empty parameter list")

    monkeypatch.setattr(finish, "train", break_off)
    found = toy("broken", finetune_epochs=0.2, observer=heard)
    assert found.summary["incumbent"]["accuracy"] == wanted.summary["incumbent"]["accuracy"]
    assert not found.incumbent.build().training
    assert any("failed and is undone: ValueError: optimizer got an empty" in text for text in heard.texts)


def test_the_networks_at_the_end_of_a_search_are_taught_by_features(toy, monkeypatch):
    hooked = []

    def watched(model, images, indices, recipe, **options):
        hooked.append([type(hook) for hook in options["hooks"]])
        return train(model, images, indices, recipe, **options)

    train = finish.train
    monkeypatch.setattr(finish, "train", watched)
    toy(finetune_epochs=0.2)
    assert hooked
    assert all(types == [FeatureDistillation] for types in hooked)


def test_a_finetune_that_fails_otherwise_is_not_repeated(toy, monkeypatch):
    seen = []
    monkeypatch.setattr(finish, "train", failing_once(finish.train, DivergenceError("the loss is nan"), seen))
    with pytest.raises(DivergenceError):
        toy(finetune_epochs=0.2)
    assert len(seen) == 1


@pytest.mark.parametrize(("budget", "said"), [("100%flops", True), ("90%flops", False)])
def test_a_budget_that_asks_for_nothing_is_said_to(toy, budget, said):
    notes = toy(budgets=(budget,)).summary["notes"]
    assert any("nothing had to be cut" in note for note in notes) == said
