"""Every shipped search space, on the networks that it is for."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from autoprune.config.resources import resource_names
from autoprune.config.spaces import apply_rules, load_search_space, space_for
from autoprune.config.written_space import space_text
from autoprune.core.budget import parse_budgets
from autoprune.core.space import SearchSpace
from autoprune.core.structure import PrunableGroup
from autoprune.models.network import Role
from autoprune.models.tracing.tracer import trace
from autoprune.models.zoo.catalogue import build_model, family_names

#: {search space: ((network, side of the image that it is traced with), ...)}; small images where a network takes them.
NETWORKS = {
    "cifar-resnet": (("cifar/resnet20-a", 8), ("cifar/resnet20-b", 8)),
    "cifar-vgg16": (("cifar/vgg16", 16), ("cifar/vgg16-512head", 16)),
    "cifar-googlenet": (("cifar/googlenet", 8),),
    "cifar-densenet40": (("cifar/densenet40", 8), ("cifar/densenet40-24stem", 8), ("cifar/densenet40-nobn", 8)),
    "cifar-mobilenetv2": (("cifar/mobilenetv2", 8),),
    "imagenet-resnet": (("torchvision/resnet18", 32), ("torchvision/resnet50", 32)),
    "imagenet-mobilenet-v2": (("torchvision/mobilenet_v2", 32),),
    "imagenet-mobilenet-v3": (("torchvision/mobilenet_v3_small", 32), ("torchvision/mobilenet_v3_large", 32)),
    "imagenet-efficientnet-b0": (("torchvision/efficientnet_b0", 32),),
    "imagenet-convnext-tiny": (("torchvision/convnext_tiny", 32),),
    "imagenet-vit-b16": (("torchvision/vit_b_16", 224),),
    "ssd300-vgg16": (("torchvision/ssd300_vgg16", 300),),
    "default": (("digits/resnet", 8),),
}
PAIRS = [(space, model, side) for space, networks in NETWORKS.items() for model, side in networks]


@cache
def traced(spec: str, side: int):
    if spec.startswith("torchvision/"):
        # Their random weights take seconds to draw, and a trace does not depend on them.
        with torch.device("meta"):
            model = build_model(spec)
        model = model.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.zero_()
    else:
        model = build_model(spec)
    return trace(model, torch.zeros(1, 1 if spec.startswith("digits/") else 3, side, side))


@pytest.mark.parametrize(("spec", "side"), [(spec, side) for _, spec, side in PAIRS])
def test_a_written_space_loads_back_for_its_network(spec, side, tmp_path):
    network = traced(spec, side)
    members = [network.layers_of(index, Role.PRODUCES) for index in range(len(network.groups))]
    text = space_text(spec, network.groups, members=members, frozen=network.frozen, scope="coupled", multiple_of=8)
    (tmp_path / "space.toml").write_text(text)
    rules = load_search_space(tmp_path / "space.toml")
    assert rules.scope == "coupled"
    assert rules.models == (spec,)
    assert rules.frozen == ()
    for group, limited in zip(network.groups, apply_rules(network.groups, rules), strict=True):
        assert (limited.name, limited.width, limited.multiple_of) == (group.name, group.width, 8)
        assert limited.min_width == -(-group.width // 20)
        assert f" {group.name} " in text
    assert all(f" {layer} " in text for layer in network.frozen)


def test_every_shipped_file_is_tried():
    assert set(NETWORKS) == set(resource_names("search_spaces"))


@pytest.mark.parametrize(("space", "spec", "side"), PAIRS)
def test_a_space_fits_its_network_and_leaves_room_for_half_the_flops(space, spec, side):
    rules = load_search_space(space)
    assert space_for(spec) == space
    network = traced(spec, side)
    groups = apply_rules(network.groups, rules)
    assert sum(len(group.legal_widths) > 1 for group in groups) >= 9
    reachable = SearchSpace.build(groups, network.cost_model, parse_budgets(["50%flops"]))
    assert network.cost_model.cost(reachable.smallest).macs <= network.cost_model.dense.macs / 2
    if space.startswith("imagenet-"):
        # Heads are 64 channels each already.
        cuttable = [
            group
            for group in groups
            if len(group.legal_widths) > 1 and not group.name.endswith("self_attention.in_proj")
        ]
        assert all(width % 8 == 0 for group in cuttable for width in group.legal_widths[:-1])


@pytest.mark.parametrize(
    "spec", [spec for spec in family_names() if spec.startswith("cifar/") and spec != "cifar/resnet8"]
)
def test_every_cifar_family_has_a_space(spec):
    assert space_for(spec).startswith("cifar-")


@pytest.mark.parametrize("spec", ["torchvision/alexnet", "package.module:factory", "", "cifar/resnet8"])
def test_any_other_network_has_the_default(spec):
    assert space_for(spec) == "default"


def test_of_a_vision_transformer_only_widths_of_mlps_go_in_eights():
    # Heads are few: of twelve, a step of eight would leave eight or all.
    rules = load_search_space("imagenet-vit-b16")
    block = "encoder.layers.encoder_layer_0"
    mlp, heads = PrunableGroup(f"{block}.mlp.0", 3072), PrunableGroup(f"{block}.self_attention.in_proj", 12)
    limited = apply_rules((mlp, heads), rules)
    assert [group.multiple_of for group in limited] == [8, 1]
    assert limited[1].legal_widths == tuple(range(2, 13))
