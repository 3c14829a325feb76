"""Networks with heads that run only in training: what such heads read is cut, and the cut network can be trained."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.models.auxiliary import as_in_training
from autoprune.models.counting import count
from autoprune.models.surgery import cut, random_kept
from autoprune.models.tracing import trace
from autoprune.models.verify import random_structure, verified, verify
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
