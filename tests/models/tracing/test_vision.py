from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d, MultiScaleRoIAlign, RoIAlign, RoIPool

from autoprune.models.costing.counting import count
from autoprune.models.network import Role
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import largest_deviation, outputs, seen, verified, verify
from tests.models.toy_networks import SHAPE, Toy, settled, unit


def traced(model: nn.Module):
    return trace(model, torch.rand(1, *SHAPE))


class Deformable(Toy):
    """Deformable convolutions, one of them modulated, and a frozen batch norm between them."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__(6)
        self.stem, self.offsets, self.mask = unit(3, 8), nn.Conv2d(8, 18, 3, padding=1), nn.Conv2d(8, 9, 1)
        self.first, self.norm = DeformConv2d(8, 8, 3, padding=1, groups=groups), FrozenBatchNorm2d(8)
        self.others, self.second = nn.Conv2d(8, 18, 1), DeformConv2d(8, 6, 3, padding=1, bias=False)
        for buffer in self.norm.buffers():
            buffer.copy_(torch.rand(8) + 0.5)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.norm(self.first(x, self.offsets(x), torch.sigmoid(self.mask(x)))))
        return self.second(x, self.others(x))


class Regions(Toy):
    """Features pooled over the brightest of a few regions, as a box head sees them."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__(5)
        self.stem, self.score = unit(3, 8), nn.Conv2d(8, 1, 1)
        self.pool, self.last = pool, unit(8, 5)
        self.register_buffer("regions", torch.tensor([[0, 1, 1, 7, 7], [0, 2, 0, 9, 5], [0, 4, 4, 11, 10.0]]))

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        score = self.pool(self.score(x), self.regions.to(x)).mean((1, 2, 3))
        return self.last(self.pool(x, self.regions.to(x)[score > score.mean()]))


def box_network(kind: type = FasterRCNN, **options) -> nn.Module:
    """A two-stage detector with a backbone of three layers; many regions, so that every part computes something."""
    backbone = nn.Sequential(unit(3, 8, stride=2), unit(8, 10, stride=2), nn.Conv2d(10, 6, 3, padding=1))
    backbone.out_channels = 6
    few = {"rpn_post_nms_top_n_test": 12, "box_detections_per_img": 5, "box_score_thresh": 0.0, **options}
    pools = {"box_roi_pool": MultiScaleRoIAlign(["0"], 3, 2)}
    if kind is MaskRCNN:
        pools["mask_roi_pool"] = MultiScaleRoIAlign(["0"], 4, 2)
    torch.manual_seed(0)
    anchors = AnchorGenerator(((8, 16),), ((0.5, 1.0),))
    return settled(kind(backbone, 3, rpn_anchor_generator=anchors, **pools, min_size=32, max_size=48, **few))


@pytest.mark.parametrize("pool", [RoIAlign((3, 3), 1.0, 2), RoIPool((3, 3), 1.0)], ids=repr)
def test_pooled_regions_keep_their_channels(pool):
    torch.manual_seed(0)
    model = settled(Regions(pool))
    network = traced(model)
    assert {group.name: group.width for group in network.groups} == {"stem.0": 8, "last.0": 5}
    assert network.picks_by_value
    assert all(verify(model, network, seed=seed).holds for seed in range(3))


def test_deformable_convolutions_are_cut_and_what_says_where_they_read_is_not():
    model = settled(Deformable())
    network = traced(model)
    assert {group.name: group.width for group in network.groups} == {"stem.0": 8, "first": 8, "second": 6}
    assert set(network.frozen) == {"offsets", "mask", "others", "head"}
    assert network.cost_model.dense == count(model, (1, *SHAPE))
    assert all(verify(model, network, seed=seed).holds for seed in range(3))


def test_a_grouped_deformable_convolution_names_its_reason():
    model = settled(Deformable(groups=2))
    network = traced(model)
    assert network.frozen["stem.0"] == network.frozen["first"] == "first.weight is a grouped deformable convolution"
    assert verify(model, network).holds


def test_the_buffers_of_a_frozen_batch_norm_follow_the_channels_they_scale():
    network = traced(settled(Deformable()))
    following = {
        axis.names[0]
        for axis in network.axes
        if axis.role is Role.FOLLOWS and network.index["first"] in network.channels[axis.channels].members
    }
    assert {f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")} <= following


@pytest.mark.parametrize("kind", [FasterRCNN, MaskRCNN])
def test_a_two_stage_detector_is_cut_up_to_its_heads(kind):
    model = box_network(kind)
    network = traced(model)
    prunable = {group.name for group in network.groups}
    assert {"backbone.0.0", "backbone.1.0", "backbone.2", "rpn.head.conv.0.0", "roi_heads.box_head.fc6"} <= prunable
    assert all("head" in layer or "predictor" in layer for layer in network.frozen)
    found = verify(model, network)
    assert found.holds
    assert verified(model, network).groups == network.groups


def test_a_detector_that_finds_nothing_is_traced_like_one_that_does():
    everything, nothing = box_network(MaskRCNN), box_network(MaskRCNN, box_score_thresh=0.999)
    network = traced(nothing)
    assert [group.name for group in network.groups] == [group.name for group in traced(everything).groups]
    assert verify(nothing, network).holds


def test_heads_are_compared_even_where_nothing_is_found():
    model = box_network(box_score_thresh=0.999)
    network, image = traced(model), torch.rand(1, *SHAPE)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.roi_heads.box_predictor.cls_score.weight.mul_(1.01)
    assert largest_deviation(outputs(model, image), outputs(other, image)) == 0
    assert largest_deviation(seen(model, network, image), seen(other, network, image)) > 1e-4
