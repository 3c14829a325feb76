from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoprune.data import ArrayImages, load_data
from autoprune.models.cutting.surgery import Kept, cut, keep_all, random_kept
from autoprune.models.network import TracedNetwork
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import random_structure
from autoprune.models.zoo.weights import state_fingerprint
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
    from autoprune.models.zoo.families.cifar_resnet import CifarResNet

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


class WithCoordinates(nn.Conv2d):
    """A convolution that reads where it is, besides: its argument has two channels fewer than it reads."""

    def reads(self, x: Tensor) -> Tensor:
        rows = torch.linspace(-1, 1, x.shape[-1])[:, None].expand(x.shape[-2:])
        return torch.cat([torch.stack([rows, rows.mT]).expand(len(x), -1, -1, -1), x], 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(self.reads(x), weight=self.weight, bias=self.bias, padding=1)


class Squaring(nn.Conv2d):
    """A convolution that reads its argument squared: shapes alone would not tell."""

    def reads(self, x: Tensor) -> Tensor:
        return x.square()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.reads(x))


class Own(nn.Module):
    """Layers with forwards of their own, of which the second may be run again in the backward pass."""

    def __init__(self, kind: str, *, again: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.layer = {
            "coordinates": WithCoordinates(8, 7, 3, padding=1),
            "squared": Squaring(6, 7, 3, padding=1),
            "plain": nn.Conv2d(6, 7, 3, padding=1),
        }[kind]
        self.head = nn.Linear(7, 5)
        self.again = again

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = checkpoint(self.layer, x, use_reentrant=False) if self.again and self.training else self.layer(x)
        return self.head(x.relu().mean((2, 3)))


def own(kind: str, *, again: bool = False) -> tuple[nn.Module, TracedNetwork, Kept]:
    torch.manual_seed(0)
    model = Own(kind, again=again).eval()
    network = trace(model, torch.zeros(1, *SHAPE))
    # The last channels, so that a layout that is off by a few would be seen.
    return model, network, Kept(tuple(np.arange(g.width // 2, g.width) for g in network.groups))


def read(layer: nn.Module, x: Tensor) -> Tensor:
    return x if type(layer) is nn.Conv2d else layer.reads(x)


@pytest.mark.parametrize("kind", ["coordinates", "squared", "plain"])
def test_what_a_layer_with_a_forward_of_its_own_convolves_is_compared_not_its_argument(kind) -> None:
    dense, network, kept = own(kind)
    small = cut(dense, network, kept)
    with torch.no_grad():
        small.stem.weight += 0.1  # as if it had been trained: before that, it computes what the dense one does
    (item,) = [item for item in layer_inputs(network, kept) if item.layer == "layer"]
    x = images(4)
    mine, wanted = ((read(model.layer, model.stem(x).relu())).detach() for model in (small, dense))
    wanted = wanted if item.kept is None else wanted[:, item.kept]
    expected = nn.functional.mse_loss(mine, wanted) / wanted.var(correction=0)
    hook = FeatureDistillation([item], weight=1.0)
    hook.begin(state(small, dense))
    with torch.no_grad():
        dense(images(4))
    small(images(4))
    gap = hook.penalty()
    hook.end()
    assert gap is not None
    assert gap.item() == pytest.approx(expected.item(), rel=1e-4)
    assert gap.item() > 1e-3
    assert not any(m._forward_pre_hooks or m._forward_hooks for model in (dense, small) for m in model.modules())


def test_layers_that_run_again_in_the_backward_pass_change_nothing() -> None:
    prints = []
    for again in (False, True):
        dense, network, kept = own("coordinates", again=again)
        small = cut(dense, network, kept).train()
        hook = FeatureDistillation(layer_inputs(network, kept), weight=10.0)
        optimiser = torch.optim.SGD(small.parameters(), 1e-2)
        hook.begin(state(small, dense))
        for step in range(3):
            x = images(4) + step
            with torch.no_grad():
                dense(x)
            out = small(x)
            gap = hook.penalty()
            assert gap is not None
            optimiser.zero_grad()
            (out.square().mean() + gap).backward()
            hook.gradients_ready()
            optimiser.step()
        hook.end()
        prints.append(state_fingerprint(small))
    assert prints[0] == prints[1]


def test_maps_that_cannot_be_compared_are_left_out() -> None:
    dense, network, kept = stages(0.5)
    small = cut(dense, network, kept)
    inputs = layer_inputs(network, kept)
    odd = [replace(item, width=item.width + 1) if item.layer == "head" else item for item in inputs]
    found = []
    for chosen in (odd, [item for item in inputs if item.layer != "head"]):
        hook = FeatureDistillation(chosen)
        hook.begin(state(small, dense))
        dense(images(4))
        small(images(4))
        gap = hook.penalty()
        hook.end()
        assert gap is not None
        found.append(gap.item())
    assert found[0] == found[1]


def test_a_layer_whose_forward_raises_is_no_longer_listened_to() -> None:
    dense, network, kept = own("coordinates")
    small = cut(dense, network, kept)
    hook = FeatureDistillation(layer_inputs(network, kept))
    hook.begin(state(small, dense))
    with pytest.raises(RuntimeError):
        small.layer(torch.zeros(1, 9, 4, 4))
    assert torch.overrides._get_current_function_mode() is None
    hook.end()
