from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.data import ArrayImages, load_data
from autoprune.models.network import TracedNetwork
from autoprune.models.surgery import Kept, cut, keep_all, random_kept
from autoprune.models.tracing import trace
from autoprune.models.verify import random_structure
from autoprune.models.weights import state_fingerprint
from autoprune.tasks.detectors import raw_outputs
from autoprune.training import Recipe, train
from autoprune.training.features import FeatureDistillation, layer_inputs
from autoprune.training.hooks import TrainingState
from tests.models.toy_networks import NETWORKS, SHAPE, UNPROVED, images, toy

#: Those that can be cut at random, and trained: autograd refuses the one that overwrites what a convolution has read.
TRAINED = [name for name in NETWORKS if name not in UNPROVED and name != "overwritten input"]


class Stages(nn.Module):
    """Two maps of 12x12, one of 6x6, and what is left of it after pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 7, 3, padding=1)
        self.third = nn.Conv2d(7, 8, 3, stride=2, padding=1)
        self.fourth = nn.Conv2d(8, 9, 3, padding=1)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x).relu()).relu()).relu()
        return self.head(self.fourth(x).relu().mean((2, 3)))


def state(model: nn.Module, teacher: nn.Module | None) -> TrainingState:
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    return TrainingState(model, optimiser, 1.0, torch.device("cpu"), teacher)


def stages(fraction: float) -> tuple[nn.Module, TracedNetwork, Kept]:
    """Returns a network, its trace, and channels that keep a share of every group."""
    torch.manual_seed(0)
    model = Stages().eval()
    network = trace(model, torch.zeros(1, *SHAPE))
    chance = np.random.default_rng(0)
    kept = Kept(
        tuple(np.sort(chance.permutation(g.width)[: max(1, round(fraction * g.width))]) for g in network.groups)
    )
    return model, network, kept


def penalty(dense: nn.Module, small: nn.Module, network: TracedNetwork, kept: Kept, x: Tensor, **options) -> float:
    """Returns what one batch adds to the loss."""
    hook = FeatureDistillation(layer_inputs(network, kept), **options)
    hook.begin(state(small, dense))
    try:
        with torch.no_grad():
            raw_outputs(dense, x)
        raw_outputs(small, x)
        found = hook.penalty()
        return 0.0 if found is None else found.item()
    finally:
        hook.end()


def test_the_loss_is_the_mean_over_the_last_maps_of_each_resolution() -> None:
    dense, network, kept = stages(0.5)
    small = cut(dense, network, kept)
    x = images(4)
    read: dict[tuple[str, str], Tensor] = {}
    for whose, model in (("dense", dense), ("small", small)):
        for name in ("third", "fourth", "head"):
            model.get_submodule(name).register_forward_pre_hook(
                lambda _, inputs, key=(whose, name): read.__setitem__(key, inputs[0].detach())
            )
        model(x)
    expected = []
    # `third` reads what `second` puts out, group 1; `fourth` and the head what their predecessors do.
    for name, group in (("third", 1), ("fourth", 2), ("head", 3)):
        wanted = read["dense", name][:, kept.indices[group].tolist()]
        squares = [(a - b) ** 2 for a, b in zip(read["small", name].flatten(), wanted.flatten(), strict=True)]
        mean = sum(wanted.flatten()) / wanted.numel()
        variance = sum((value - mean) ** 2 for value in wanted.flatten()) / wanted.numel()
        expected.append(sum(squares) / len(squares) / variance)
    assert penalty(dense, small, network, kept, x, weight=3.0) == pytest.approx(
        3.0 * float(sum(expected)) / 3, rel=1e-3
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_keeps_everything_has_nothing_to_learn(name) -> None:
    model = toy(name)
    network = trace(model, torch.zeros(1, *SHAPE))
    kept = keep_all(network)
    assert penalty(model, cut(model, network, kept), network, kept, images(3)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", TRAINED)
def test_a_cut_network_of_any_kind_comes_closer(name) -> None:
    model = toy(name)
    network = trace(model, torch.zeros(1, *SHAPE))
    structure = random_structure(network, np.random.default_rng(2))
    kept = random_kept(network, structure, np.random.default_rng(3))
    small = cut(model, network, kept)
    before = penalty(model, small, network, kept, images(4))
    assert np.isfinite(before)
    if before < 1e-9:
        return  # the maps that count are exact: only what is read at the very end is cut, or no module holds the layers
    hook = FeatureDistillation(layer_inputs(network, kept), weight=1.0)
    hook.begin(state(small, model))
    optimiser = torch.optim.SGD(small.parameters(), 1e-3)
    for _ in range(5):
        with torch.no_grad():
            raw_outputs(model, images(4))
        raw_outputs(small, images(4))
        gap = hook.penalty()
        assert gap is not None
        optimiser.zero_grad()
        gap.backward()
        nn.utils.clip_grad_norm_(small.parameters(), 1.0)
        optimiser.step()
    hook.end()
    assert penalty(model, small, network, kept, images(4)) < before


def test_what_is_read_while_the_network_is_only_tested_does_not_count() -> None:
    dense, network, kept = stages(0.5)
    small = cut(dense, network, kept)
    expected = penalty(dense, small, network, kept, images(4))
    hook = FeatureDistillation(layer_inputs(network, kept))
    hook.begin(state(small, dense))
    with torch.no_grad():
        small(images(9))
        dense(images(4))
    small(images(4))
    found = hook.penalty()
    hook.end()
    assert found is not None
    assert found.item() == pytest.approx(expected)


def test_a_second_training_chooses_its_maps_anew() -> None:
    dense, network, kept = stages(0.5)
    small = cut(dense, network, kept)
    hook, found = FeatureDistillation(layer_inputs(network, kept)), []
    for _ in range(2):
        hook.begin(state(small, dense))
        dense(images(4))
        small(images(4))
        gap = hook.penalty()
        assert gap is not None
        found.append(gap.item())
        hook.end()
    assert found[0] == pytest.approx(found[1])


def test_without_a_teacher_nothing_is_watched_or_added() -> None:
    dense, network, kept = stages(0.5)
    small = cut(dense, network, kept)
    hook = FeatureDistillation(layer_inputs(network, kept))
    hook.begin(state(small, None))
    small(images(2))
    assert hook.penalty() is None


def test_a_training_leaves_no_hook_behind_and_is_reproducible() -> None:
    digits = load_data("digits").train
    assert isinstance(digits, ArrayImages)
    from autoprune.models.families.cifar_resnet import CifarResNet

    torch.manual_seed(0)
    dense = CifarResNet(blocks=1, option="b", widths=(4, 8, 8), in_channels=1).eval()
    network = trace(dense, digits.take([0]))
    kept = Kept(tuple(np.arange(max(1, group.width // 2)) for group in network.groups))
    prints = []
    for hooks in (
        [],
        [FeatureDistillation(layer_inputs(network, kept))],
        [FeatureDistillation(layer_inputs(network, kept))],
    ):
        small = copy.deepcopy(cut(dense, network, kept))
        recipe = Recipe(epochs=2, learning_rate=0.02, batch_size=32, distillation=0.9)
        train(small, digits, range(96), recipe, seed=0, teacher=dense, hooks=hooks)
        assert not any(module._forward_pre_hooks for model in (small, dense) for module in model.modules())
        prints.append(state_fingerprint(small))
    assert prints[0] != prints[1] == prints[2]
