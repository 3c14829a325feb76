from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.structure import Structure
from autoprune.errors import StructureError
from autoprune.models.cutting.surgery import Kept, cut, keep_all, named_tensors, random_kept
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import outputs, random_structure, verified
from tests.models.toy_networks import NETWORKS, SHAPE, images, toy


def halved(name: str) -> tuple[nn.Module, nn.Module]:
    """Returns a network of `NETWORKS` and its cut to about half of every width."""
    model = toy(name)
    network = verified(model, trace(model, torch.zeros(1, *SHAPE)))
    structure = Structure(tuple(max(1, group.width // 2) for group in network.groups))
    return model, cut(model, network, random_kept(network, structure, np.random.default_rng(0)))


def storages(model: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in named_tensors(model).values() if tensor.numel()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_shares_no_storage_with_the_dense_network_and_leaves_it_alone(name):
    model = toy(name)
    network = verified(model, trace(model, torch.zeros(1, *SHAPE)))
    before = {key: (id(tensor), tensor.clone()) for key, tensor in named_tensors(model).items()}
    small = cut(
        model,
        network,
        random_kept(network, random_structure(network, np.random.default_rng(2)), np.random.default_rng(3)),
    )
    assert not storages(model) & storages(small)
    with torch.no_grad():
        for tensor in named_tensors(small).values():
            tensor.zero_()
    after = named_tensors(model)
    assert all(
        id(after[key]) == identity and torch.equal(after[key], value) for key, (identity, value) in before.items()
    )
    assert not {id(module) for module in model.modules()} & {id(module) for module in small.modules()}


# Autograd refuses an input that is overwritten, cut or not.
@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"overwritten input"}))
def test_a_cut_network_can_be_copied_and_trained(name):
    _, small = halved(name)
    x = images(4)
    twin = copy.deepcopy(small)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(outputs(small, x), outputs(twin, x), strict=True))
    small.train()
    optimiser = torch.optim.SGD(small.parameters(), lr=0.01)
    before = [parameter.detach().clone() for parameter in small.parameters()]
    sum(item.square().mean() for item in outputs(small, x)).backward()
    optimiser.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True))


@pytest.mark.parametrize("name", ["residual with channel maps", "depthwise", "several heads", "reused layers"])
def test_a_cut_network_can_be_pickled(name):
    _, small = halved(name)
    again = pickle.loads(pickle.dumps(small))
    with torch.no_grad():
        for a, b in zip(outputs(small, images(2)), outputs(again, images(2)), strict=True):
            assert torch.equal(a, b)


def test_layers_say_their_new_widths():
    _, small = halved("squeeze and excite")
    stem = small.get_submodule("stem.0")
    assert (stem.in_channels, stem.out_channels, small.get_submodule("stem.1").num_features) == (3, 4, 4)
    assert small.get_submodule("head").in_features == 4


def test_requires_grad_mode_and_ties_are_kept():
    model = toy("reused layers").train()
    model.stem.requires_grad_(False)
    network = trace(model, torch.zeros(1, *SHAPE))
    small = cut(model, network, keep_all(network))
    assert small.training
    assert small.left.weight is small.right.weight
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]


def test_hooks_and_lists_point_into_the_replica():
    model, small = halved("hidden references")
    assert small.order[0] is small.stem
    assert small.activation.__self__ is small
    model.last.register_forward_hook(lambda *_: pytest.fail("a hook of the dense network ran"))
    small(images(1))


@pytest.mark.parametrize("value", [torch.ones(10), np.ones((3, 2))])
def test_attributes_that_have_no_truth_value_are_replicated(value):
    model = toy("plain")
    model.constants = value
    network = verified(model, trace(model, torch.zeros(1, *SHAPE)))
    assert np.array_equal(cut(model, network, keep_all(network)).constants, value)


def test_hooks_of_the_replica_stay_its_own():
    model, small = halved("plain")
    small.layers.register_forward_hook(lambda *_: pytest.fail("a hook of the cut network ran"))
    model(images(1))


def test_a_matrix_takes_the_dropped_channels_over():
    model = toy("flattened")
    network = trace(model, torch.zeros(1, *SHAPE))
    kept = keep_all(network)
    small = cut(
        model, network, Kept((np.array([0, 2]), *kept.indices[1:])), inputs={"conv2.weight": torch.eye(6)[:, [0, 2]]}
    )
    assert torch.equal(small.conv2.weight, model.conv2.weight[:, [0, 2]])
    matrix = torch.randn(6, 2)
    small = cut(model, network, Kept((np.array([0, 2]), *kept.indices[1:])), inputs={"conv2.weight": matrix})
    expected = torch.einsum("oihw,ik->okhw", model.conv2.weight, matrix)
    torch.testing.assert_close(small.conv2.weight, expected)


@pytest.mark.parametrize("index", [[], [3, 2], [1, 1], [-1, 2], [0, 8]])
def test_kept_channels_that_are_none_are_refused(index):
    model = toy("plain")
    network = trace(model, torch.zeros(1, *SHAPE))
    kept = (np.array(index, dtype=np.int64), *keep_all(network).indices[1:])
    with pytest.raises(StructureError, match=r"'layers.0.0' must be ascending, distinct and in .0, 8."):
        cut(model, network, Kept(kept))


def test_too_few_groups_are_refused():
    model = toy("plain")
    network = trace(model, torch.zeros(1, *SHAPE))
    with pytest.raises(StructureError, match="for 1 groups, the network has 3"):
        cut(model, network, Kept((np.arange(8),)))
