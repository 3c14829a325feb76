"""Networks with heads that run only in training: what such heads read is cut, and the cut network can be trained."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.models.costing.counting import count
from autoprune.models.cutting.surgery import cut, random_kept
from autoprune.models.tracing.auxiliary import as_in_training, in_eval
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import random_structure, verified, verify
from tests.models.attention_networks import WIDTH, Fused, Transformer
from tests.models.toy_networks import SHAPE, Toy, images, unit


class Supervised(Toy):
    """A classifier with further heads in training.

    Args:
        kind: what these read: features, features flattened, features of a dropout, or the image.
    """

    def __init__(self, kind: str = "features") -> None:
        super().__init__(6)
        self.kind = kind
        self.stem, self.middle, self.last = unit(3, 8), unit(8, 7), unit(7, 6)
        self.side = nn.Sequential(unit(3 if kind == "image" else 8, 10), nn.Dropout(0.5))
        self.aux = nn.Linear(10 * 9 if kind == "flattened" else 10, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.stem(x)
        out = self.head(self.last(self.middle(features)).mean((2, 3)))
        if not self.training:
            return out
        if self.kind == "dropout":
            features = functional.dropout(features, 0.5, training=self.training)
        found = self.side(x if self.kind == "image" else features)
        pooled = functional.adaptive_avg_pool2d(found, 3 if self.kind == "flattened" else 1)
        return out, self.aux(pooled.flatten(1))


KINDS = ("features", "flattened", "dropout", "image")


def some_cut(model: nn.Module, seed: int = 0):
    network = verified(model, trace(model, images(1)))
    rng = np.random.default_rng(seed)
    kept = random_kept(network, random_structure(network, rng), rng)
    return network, kept, cut(model, network, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_network_with_auxiliary_heads_can_be_trained(kind):
    model = Supervised(kind).eval()
    network, _, small = some_cut(model)
    assert [group.name for group in network.groups] == ["stem.0", "middle.0", "last.0"]
    assert network.auxiliary
    small.train()
    outputs = small(images(4))
    assert [tuple(item.shape) for item in outputs] == [(4, 5), (4, 5)]
    sum(item.sum() for item in outputs).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_cost_of_auxiliary_heads_is_that_of_their_weights(kind):
    network, kept, small = some_cut(Supervised(kind).eval())
    assert network.cost_model.cost(kept.structure) == count(small, (1, *SHAPE))
    assert network.cost_model.by_layer(network.dense)["aux"].macs == 0


def test_the_channels_of_auxiliary_heads_are_frozen_and_the_reason_is_told():
    network = trace(Supervised().eval(), images(1))
    assert network.frozen == {
        "head": "network output",
        "side.0.0": "runs only in training",
        "aux": "output in training",
    }


def test_auxiliary_heads_agree_with_those_of_the_masked_network():
    model = Supervised("flattened").eval()
    found = verify(model, trace(model, images(1)))
    assert found.holds
    assert found.deviation < 1e-12


def test_a_group_that_only_the_forward_in_training_writes_down_the_width_of_is_frozen():
    class Written(Supervised):
        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            out = super().forward(x)
            return (out[0], out[1] / self.stem(x).shape[1]) if self.training else out

    model = Written().eval()
    network = verified(model, trace(model, images(1)))
    assert [group.name for group in network.groups] == ["middle.0", "last.0"]
    assert "differs from the masked dense one" in network.frozen["stem.0"]


def test_a_trace_leaves_buffers_modes_and_the_generator_as_they_were():
    model = Supervised("dropout").eval()
    model.side.train()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with as_in_training(model):
        model(images(2))
        functional.dropout(images(1), 0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_forward_that_wants_targets_in_training_is_traced_in_eval_mode_alone():
    class WantsTargets(Supervised):
        def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
            if self.training and targets is None:
                raise ValueError("no targets")
            return super().forward(x)

    model = WantsTargets().eval()
    network = verified(model, trace(model, images(1)))
    assert not network.auxiliary
    assert [group.name for group in network.groups] == ["stem.0", "middle.0", "last.0"]


def test_parameters_that_never_run_make_no_auxiliary_head():
    class Unused(Supervised):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.last(self.middle(self.stem(x))).mean((2, 3)))

    network = trace(Unused().eval(), images(1))
    assert not network.auxiliary
    assert network.frozen == {"head": "network output"}


class Between(Supervised):
    """Does something to its features in training alone: to be written by subclasses."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.stem(x)
        features = self.between(features) if self.training else self.usual(features)
        out = self.head(self.last(self.middle(features)).mean((2, 3)))
        return (out, self.aux(self.side(features).mean((2, 3)))) if self.training else out

    def usual(self, features: Tensor) -> Tensor:
        return features


class Averages(Between):
    """A norm written by hand: buffers reassigned, a parameter changed, calls counted and remembered."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(shape))
        self.seen = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.calls, self.history = 0, []

    def between(self, features: Tensor) -> Tensor:
        mean = features.mean((0, 2, 3)) if self.average.ndim else features.mean()
        self.average = 0.9 * self.average + 0.1 * mean
        self.seen.add_(1)
        self.calls += 1
        self.history.append(self.calls)
        return self.usual(features)

    def usual(self, features: Tensor) -> Tensor:
        return features - (self.average[None, :, None, None] if self.average.ndim else self.average)


@pytest.mark.parametrize("shape", [(8,), ()], ids=["of channels", "of all"])
def test_a_forward_in_training_that_reassigns_buffers_is_traced_and_changes_nothing(shape):
    model = Averages(*shape).eval()
    average, before = model.average, copy.deepcopy(model.state_dict())
    network, _, small = some_cut(model)
    assert [group.name for group in network.groups] == ["stem.0", "middle.0", "last.0"]
    assert model.average is average
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.calls, model.history) == (0, [])
    assert [tuple(item.shape) for item in small.train()(images(4))] == [(4, 5), (4, 5)]


def test_ways_of_training_leave_what_a_forward_reassigns_as_it_was():
    model = Averages(8).eval()
    average = model.average
    with as_in_training(model):
        model(images(2))
    assert model.average is average
    assert (float(average.abs().max()), float(model.seen), model.calls) == (0.0, 0.0, 0)


def test_a_buffer_that_the_forward_in_eval_mode_reassigns_is_no_error():
    class Counting(Averages):
        def usual(self, features: Tensor) -> Tensor:
            self.average = self.average + 1.0
            return features

    assert trace(Counting(8).eval(), images(1)).groups


class Noise(Between):
    def between(self, features: Tensor) -> Tensor:
        return features + 0.1 * torch.randn_like(features)


class Token(Between):
    """A token in place of features that are hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(8))

    def between(self, features: Tensor) -> Tensor:
        hidden = (torch.rand(len(features), 1, *features.shape[2:]) < 0.3).float()
        return features * (1 - hidden) + self.token[None, :, None, None] * hidden


class Dropped(Between):
    """Stochastic depth, once per image."""

    def between(self, features: Tensor) -> Tensor:
        return features * (0.8 + torch.rand(len(features), 1, 1, 1)).floor_() / 0.8


class NoiseOfItsShape(Between):
    def between(self, features: Tensor) -> Tensor:
        return features + 0.1 * torch.randn(features.shape)


@pytest.mark.parametrize("kind", [Noise, Token, Dropped, NoiseOfItsShape])
def test_what_only_training_draws_costs_no_group_and_the_cut_network_can_be_trained(kind):
    network, kept, small = some_cut(kind().eval())
    assert [group.name for group in network.groups] == ["stem.0", "middle.0", "last.0"]
    assert kept.structure != network.dense
    assert [tuple(item.shape) for item in small.train()(images(4))] == [(4, 5), (4, 5)]


class Picked(Between):
    """What is drawn for channels goes before what is drawn for positions."""

    def between(self, features: Tensor) -> Tensor:
        features = features + 0.1 * torch.randn_like(features)
        side = features.shape[-1]
        features = features[:, :, int(torch.randint(1, side, ())) :, torch.randperm(side)]
        return features[..., torch.multinomial(torch.ones(side), 3)]


class Coin(Between):
    """Another forward by a number of NumPy's own generator."""

    def between(self, features: Tensor) -> Tensor:
        return features * (1 + np.random.rand())  # noqa: NPY002  # as users write it


@pytest.mark.parametrize("kind", [Picked, Coin])
def test_whatever_is_drawn_in_training_is_the_same_for_every_width(kind):
    model = kind().eval()
    network = trace(model, images(1))
    assert network.auxiliary
    assert len(network.groups) == 3
    assert all(verify(model, network, seed=seed).holds for seed in range(3))


class Ranked(Between):
    """An operation that no rule follows, on channels that the other head reads."""

    def between(self, features: Tensor) -> Tensor:
        return features + features.sort(1)[0].mean()


class RankedAlone(Supervised):
    """The same, with a head that reads the image."""

    def __init__(self) -> None:
        super().__init__("image")

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        out = super().forward(x)
        return (out[0] + self.stem(x).sort(1)[0].mean(), out[1]) if self.training else out


@pytest.mark.parametrize("kind", [Ranked, RankedAlone])
def test_what_no_rule_follows_in_training_costs_no_group_where_any_width_can_be_trained(kind):
    network, _, small = some_cut(kind().eval())
    assert [group.name for group in network.groups] == ["stem.0", "middle.0", "last.0"]
    assert not network.auxiliary
    assert [tuple(item.shape) for item in small.train()(images(4))] == [(4, 5), (4, 5)]


def test_features_that_training_puts_out_keep_their_width():
    class Shown(Supervised):
        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
            out = super().forward(x)
            return (*out, self.stem(x)) if self.training else out

    network = trace(Shown().eval(), images(1))
    assert [group.name for group in network.groups] == ["middle.0", "last.0"]


class Watched(Transformer):
    """A classifier with another head, that runs before attention splits its heads, and stochastic depth."""

    def __init__(self) -> None:
        super().__init__(Fused())
        self.aux = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.training:
            return super().forward(x)
        found = self.aux(self.patches(x).mean((2, 3)))
        return super().forward(x * torch.empty(len(x), 1, 1, 1).bernoulli_(0.9)), found


def test_attention_heads_are_found_in_the_forward_in_training_too():
    model = Watched().eval()
    network = verified(model, trace(model, torch.rand(1, 3, 12, 12)))
    assert network.auxiliary
    assert [(group.name, group.width) for group in network.groups] == [("attention.qkv", 4), ("up", 20)]


def test_gpus_are_not_seeded_and_the_generators_of_python_and_numpy_go_on(monkeypatch):
    def refuse(seed: int) -> None:
        raise AssertionError(f"all GPUs are seeded with {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    before = random.getstate(), np.random.get_state()[2]  # noqa: NPY002
    with as_in_training(Supervised()):
        random.random(), np.random.rand()  # noqa: NPY002
    assert (random.getstate(), np.random.get_state()[2]) == before  # noqa: NPY002


def test_every_module_has_its_own_mode_again_after_eval():
    model = Supervised().train()
    model.side.eval()
    modes = [module.training for module in model.modules()]
    with in_eval(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes


@pytest.mark.slow
def test_googlenet_is_cut_with_its_auxiliary_classifiers():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.googlenet(num_classes=10, aux_logits=True, init_weights=False).eval()
    network = trace(model, torch.rand(1, 3, 64, 64))
    rng = np.random.default_rng(0)
    assert verify(model, network).holds
    small = cut(model, network, random_kept(network, random_structure(network, rng), rng)).train()
    found = small(torch.rand(2, 3, 64, 64))
    assert [tuple(item.shape) for item in found] == [(2, 10)] * 3
