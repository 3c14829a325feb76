"""The trace against the network itself: costs, equivalence, groups, reasons."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_leaves

from autoprune.core.structure import Structure
from autoprune.errors import ModelError
from autoprune.models.costing.counting import count
from autoprune.models.cutting.surgery import cut, keep_all, random_kept
from autoprune.models.network import Role
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import random_structure, restricted, verified, verify
from autoprune.models.zoo.catalogue import build_model, model_info
from tests.models.toy_networks import NETWORKS, SHAPE, SLICED, UNPROVED, images, settled, toy

FAMILIES = [f"cifar/resnet{depth}-{option}" for depth in (20, 56) for option in "ab"]
FAMILIES += ["cifar/vgg16", "cifar/vgg16-512head", "cifar/densenet40-nobn", "cifar/resnet8", "digits/resnet"]
DEEP = [f"cifar/resnet{depth}-{option}" for depth in (32, 44, 110) for option in "ab"]
TORCHVISION = [
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "vgg11_bn",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "shufflenet_v2_x0_5",
    "googlenet",
    "squeezenet1_0",
    "regnet_y_400mf",
    "convnext_tiny",
]


def traced(model: nn.Module, shape: tuple[int, ...] = SHAPE):
    return trace(model, torch.zeros(1, *shape))


def zoo(spec: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    shape = model_info(spec).input_shape
    assert shape is not None
    return settled(build_model(spec)), shape


class TestInvariants:
    @pytest.mark.parametrize("name", [*NETWORKS, *SLICED])
    def test_the_cost_of_any_structure_is_the_count_on_the_cut_network(self, name):
        model = toy(name)
        network = verified(model, traced(model))
        rng = np.random.default_rng(1)
        for _ in range(12):
            structure = random_structure(network, rng)
            small = cut(model, network, random_kept(network, structure, rng))
            assert count(small, (1, *SHAPE)) == network.cost_model.cost(structure)

    @pytest.mark.parametrize("name", [*NETWORKS, *SLICED])
    def test_the_cut_network_is_the_dense_one_whose_consumers_read_zeros(self, name):
        model = toy(name)
        network = verified(model, traced(model))
        for seed in range(4):
            found = verify(model, network, seed=seed)
            assert found.deviation < 1e-10
            assert found.holds

    @pytest.mark.parametrize("name", [*NETWORKS, *SLICED])
    def test_at_retain_1_outputs_are_the_same_to_the_last_bit(self, name):
        model = toy(name)
        network = traced(model)
        x = images(3)
        with torch.no_grad():
            before, after = model(x), cut(model, network, keep_all(network))(x)
        leaves = list(zip(*(tree_leaves(item) for item in (before, after)), strict=True))
        assert all(torch.equal(a, b) for a, b in leaves)

    @pytest.mark.parametrize("name", NETWORKS)
    def test_every_layer_is_prunable_or_names_its_reason(self, name):
        model = toy(name)
        network = verified(model, traced(model))
        prunable = {
            layer
            for index in range(len(network.groups))
            for role in (Role.PRODUCES, Role.FOLLOWS)
            for layer in network.layers_of(index, role)
        }
        for layer, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d) and "parametriz" not in repr(module):
                assert layer in prunable or network.frozen.get(layer), layer
        assert all(network.frozen.values())

    @pytest.mark.parametrize("name", NETWORKS)
    def test_tracing_leaves_the_network_as_it_was(self, name):
        model = toy(name).train()
        before = copy.deepcopy(model.state_dict())
        network = traced(model)
        verified(model, network)
        assert model.training
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert not any(parameter.grad is not None for parameter in model.parameters())

    @pytest.mark.parametrize("name", sorted(set(NETWORKS) - UNPROVED))
    def test_only_what_cannot_be_proved_is_frozen_afterwards(self, name):
        model = toy(name)
        network = traced(model)
        assert verified(model, network).groups == network.groups

    @pytest.mark.parametrize("activation", [
        nn.ReLU(), nn.ReLU(True), nn.ReLU6(), nn.ReLU6(True), nn.LeakyReLU(), nn.LeakyReLU(inplace=True),
        nn.ELU(), nn.ELU(inplace=True),
        nn.SELU(), nn.CELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.SiLU(True),
        nn.Mish(), nn.Hardtanh(inplace=True),
        nn.Hardswish(), nn.Hardswish(True), nn.Hardsigmoid(), nn.Softplus(), nn.Softsign(), nn.Softshrink(),
        nn.Tanhshrink(),
        nn.Hardshrink(), nn.Sigmoid(), nn.Tanh(), nn.LogSigmoid(), nn.PReLU(), nn.PReLU(6),
        nn.Threshold(0.1, 0.2),
        nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.Identity(),
    ], ids=repr)  # fmt: skip
    def test_channels_pass_through_every_activation(self, activation):
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3), activation, nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(256, 3)
        ).eval()
        network = traced(model)
        assert {group.name: group.width for group in network.groups} == {"0": 6, "2": 4}
        assert verify(model, network).holds

    @pytest.mark.parametrize("pooling", [
        nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(2),
        nn.LPPool2d(2, 2),
        nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bicubic"),
        nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.ConstantPad2d(1, 0.5),
    ], ids=repr)  # fmt: skip
    def test_channels_pass_through_every_pooling_and_padding(self, pooling):
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), pooling, nn.Conv2d(6, 4, 1), *head).eval()
        network = traced(model)
        assert {group.name: group.width for group in network.groups} == {"0": 6, "2": 4}
        assert verify(model, network).holds

    def test_all_widths_of_one_channel_can_be_cut(self):
        for name in ("residual with channel maps", "dense blocks", "channel shuffle", "transposed and resized"):
            model = toy(name)
            network = traced(model)
            ones = Structure((1,) * len(network.groups))
            kept = random_kept(network, ones, np.random.default_rng(0))
            assert verify(model, network, kept=kept).holds


class TestZoo:
    @pytest.mark.parametrize("spec", FAMILIES)
    def test_a_family_is_proved(self, spec):
        self.prove(spec)

    @pytest.mark.slow
    @pytest.mark.parametrize("spec", [*DEEP, *(f"torchvision/{name}" for name in TORCHVISION)])
    def test_a_deep_network_is_proved(self, spec):
        self.prove(spec)

    def prove(self, spec: str) -> None:
        model, shape = zoo(spec)
        network = traced(model, shape)
        assert count(model, (1, *shape)) == network.cost_model.dense
        found = verify(model, network, seed=3)
        assert found.deviation < 1e-9
        assert found.computed == found.counted

    @pytest.mark.parametrize(("spec", "internal", "coupled"), [
        ("cifar/resnet20-a", 9, 3),
        ("cifar/resnet20-b", 9, 3),
        ("cifar/resnet56-a", 27, 3),
        ("cifar/vgg16", 13, 0),
        ("torchvision/mobilenet_v2", 20, 5),
    ])  # fmt: skip
    def test_the_groups_are_those_of_the_papers(self, spec, internal, coupled):
        model, shape = zoo(spec)
        groups = traced(model, shape).groups
        assert [sum(not group.coupled for group in groups), sum(group.coupled for group in groups)] == [
            internal,
            coupled,
        ]

    def test_option_a_streams_are_cut_jointly_across_stages(self):
        model, shape = zoo("cifar/resnet20-a")
        network = traced(model, shape)
        streams = [group for group in network.groups if group.coupled]
        # The 16 channels of the first stage live on in the next two, which add 16 and 32 of their own.
        assert [group.width for group in streams] == [16, 16, 32]
        assert verify(model, restricted(network, {group.name for group in streams})).holds


class TestReasons:
    def test_a_fixed_split_freezes_its_group_alone(self):
        model = toy("fixed split")
        network = traced(model)
        proved = verified(model, network)
        assert [group.name for group in network.groups] == ["stem.0", "both", "last.0"]
        assert [group.name for group in proved.groups] == ["stem.0", "last.0"]
        assert "forward fails once it is cut" in proved.frozen["both"]

    def test_a_view_with_a_written_width_freezes_its_group_alone(self):
        model = toy("fixed view")
        proved = verified(model, traced(model))
        assert [group.name for group in proved.groups] == ["stem.0", "last.0"]
        assert "invalid for input of size" in proved.frozen["middle.0"]

    @pytest.mark.parametrize(("name", "layer", "reason"), [
        ("plain", "head", "network output"),
        ("slice", "middle.0", "slice takes a part of the channels at fixed positions"),
        ("spatial attention", "gate", "a single channel broadcast over others"),
        ("tokens", "patches", "layer norm over channels"),
        ("computed weight", "stem.0", "weight is computed in the forward"),
        ("residual with zero padding", "layers.2.conv2", "fixed width .4 of 10 channels."),
        ("fused heads", "patches", "layer norm over channels"),
        ("depthwise on the image", "layers.0", "a depthwise convolution of fixed channels"),
    ])  # fmt: skip
    def test_a_frozen_layer_names_its_reason(self, name, layer, reason):
        frozen = traced(toy(name)).frozen
        assert re.search(reason, frozen[layer])

    @pytest.mark.parametrize("name", NETWORKS)
    def test_every_layer_is_cut_with_a_group_or_says_why_not(self, name):
        model = toy(name)
        network = traced(model)
        cut_with = {
            layer
            for group in range(len(network.groups))
            for role in (Role.PRODUCES, Role.FOLLOWS)
            for layer in network.layers_of(group, role)
        }
        layers = {
            path
            for path, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        }
        assert layers <= cut_with | network.frozen.keys()

    @pytest.mark.parametrize("normed", [
        torch.nn.utils.spectral_norm, parametrizations.spectral_norm, parametrizations.weight_norm
    ])  # fmt: skip
    def test_a_layer_with_a_normed_weight_says_why_it_is_not_cut(self, normed):
        network = traced(nn.Sequential(normed(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 5, 3)).eval())
        assert network.frozen == {"0": "its weight is computed in the forward", "2": "network output"}

    def test_reused_and_tied_layers_form_one_group(self):
        network = traced(toy("reused layers"))
        assert {group.name: group.width for group in network.groups} == {"stem.0": 7, "left": 5, "join": 7}
        assert {"left", "right"} <= set(network.layers_of(1, Role.PRODUCES))

    def test_a_layer_called_through_a_function_is_named_by_its_parameter(self):
        assert [group.name for group in traced(toy("functional weights")).groups] == ["first", "second", "matrix"]

    def test_a_forward_that_fails_says_on_what(self):
        with pytest.raises(ModelError, match=r"fails on a random 1x1x12x12 input: RuntimeError.*Check the input shape"):
            trace(toy("plain"), torch.zeros(1, 1, 12, 12))

    def test_a_network_without_layers_has_nothing_to_cut(self):
        network = traced(nn.Sequential(nn.ReLU(), nn.Flatten()))
        assert network.groups == ()
        assert network.cost_model.dense.macs == 0

    def test_a_weight_that_is_normalised_in_the_forward_still_costs_what_it_costs(self):
        class Standardised(nn.Conv2d):
            def forward(self, x):
                flat = self.weight.reshape(1, self.out_channels, -1)
                weight = nn.functional.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
                return nn.functional.conv2d(x, weight, self.bias)

        model = nn.Sequential(nn.Conv2d(3, 6, 3), Standardised(6, 5, 3), nn.Conv2d(5, 4, 3), nn.Conv2d(4, 3, 1)).eval()
        network = traced(model)
        assert network.cost_model.dense == count(model, (1, *SHAPE))
        assert [group.name for group in network.groups] == ["2"]
        assert verify(model, network).holds

    def test_a_table_that_is_laid_out_otherwise_than_its_positions_is_followed(self):
        class Table(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)
                self.table = nn.Parameter(torch.randn(10, 6, 10).permute(1, 0, 2))

            def forward(self, x):
                return self.head(self.stem(x) + self.table.transpose(0, 1).view(10, 60).view(10, 6, 10).transpose(0, 1))

        model = Table()
        assert [group.name for group in traced(model).groups] == ["stem"]

    def test_restricted_costs_are_those_of_the_whole(self):
        network = traced(toy("concatenation"))
        part = restricted(network, {"left.0", "last.0"})
        assert [group.name for group in part.groups] == ["left.0", "last.0"]
        assert part.cost_model.cost(Structure((2, 5))) == network.cost_model.cost(Structure((6, 2, 7, 5)))
