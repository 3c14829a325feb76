from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.core.budget import parse_budgets
from autoprune.core.candidate import Merge
from autoprune.core.space import SearchSpace
from autoprune.models.cutting.surgery import cut, random_kept
from autoprune.models.network import Role
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.merging import cut_and_merge
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import verify
from autoprune.models.zoo.catalogue import build_model, model_info
from autoprune.tasks.detectors import heads_of, is_detector, raw_outputs

SMALL = "detection/ssd-vgg-small"


def images(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def seen_by_its_head(model: nn.Module, batch: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    handle = model.get_submodule("head").register_forward_hook(lambda _, __, out: found.extend(tree_leaves(out)))
    with torch.no_grad():
        model(list(batch))
    handle.remove()
    return found


def half(network):
    space = SearchSpace.build(network.groups, network.cost_model, parse_budgets(["50%flops"]))
    return random_kept(network, space.uniform(), np.random.default_rng(0))


@pytest.mark.parametrize("spec", [SMALL, "torchvision/ssdlite320_mobilenet_v3_large"])
def test_raw_outputs_are_what_the_head_computes_when_the_detector_runs(spec: str) -> None:
    model = build_model(spec, classes=2)
    side = model_info(spec).input_shape[1]
    for given in (side, side + 16):
        batch = images(2, given)
        with torch.no_grad():
            ours = tree_leaves(raw_outputs(model, batch))
        for left, right in zip(ours, seen_by_its_head(model, batch), strict=True):
            assert torch.allclose(left, right, atol=1e-5)


def test_images_of_any_size_are_brought_to_a_detectors_own_limits_and_padded() -> None:
    model = build_model("torchvision/retinanet_resnet50_fpn", classes=2)
    model.transform.min_size, model.transform.max_size = (60,), 90
    batch = torch.rand(1, 3, 50, 120)
    with torch.no_grad():
        ours = tree_leaves(raw_outputs(model, batch))
    for left, right in zip(ours, seen_by_its_head(model, batch), strict=True):
        assert torch.allclose(left, right, atol=1e-4)


def test_a_classifier_is_no_detector_and_runs_as_it_is() -> None:
    model = build_model("digits/resnet")
    batch = torch.randn(3, 1, 8, 8)
    assert not is_detector(model)
    assert torch.equal(raw_outputs(model, batch), model(batch))


def test_the_small_ssd_is_cut_like_its_mask_and_keeps_its_boxes() -> None:
    model = build_model(SMALL, classes=3)
    network = trace(model, images(1, 160))
    assert verify(model, network).holds
    # Everything but the heads: what they put out is fixed by anchors and classes.
    assert all(layer.startswith("head.") for layer in network.frozen)
    assert "backbone" in network.layers_of(network.index["backbone.features.30"], Role.FOLLOWS)[-1]
    small = cut(model, network, half(network))
    assert small.backbone.scale_weight.shape == (small.backbone.features[30].out_channels,)
    batch = images(2, 160)
    with torch.no_grad():
        shapes = [[item.shape for item in tree_leaves(raw_outputs(network, batch))] for network in (model, small)]
        found = small(list(batch))
    assert shapes[0] == shapes[1]
    assert [set(item) for item in found] == [{"boxes", "scores", "labels"}] * 2
    assert all(bool((item["boxes"] >= 0).all() and (item["boxes"] <= 160).all()) for item in found)


def test_sequential_reconstruction_reads_unlabelled_images_and_comes_nearer_than_a_slice() -> None:
    torch.manual_seed(0)
    model = build_model(SMALL, classes=3)
    network = trace(model, images(1, 160))
    batch, fresh = images(6, 160), images(3, 160, seed=1)
    calibration = calibrate(model, network, batch, seed=0, rows=2_048)
    # The images of a batch are normalised together: no layer runs otherwise on several than on one.
    assert {call.call for call in network.calls} == set(calibration.targets)
    kept = half(network)
    wanted = heads_of(model, fresh)[1]["cls_logits"]
    gaps = {}
    for merge in (Merge.SLICE, Merge.SEQUENTIAL):
        small = cut_and_merge(model, network, kept, merge=merge, calibration=calibration, images=batch)
        gaps[merge] = (heads_of(small, fresh)[1]["cls_logits"] - wanted).square().mean().item()
    assert gaps[Merge.SEQUENTIAL] < 0.7 * gaps[Merge.SLICE]


def test_ssd300_on_vgg16_loses_half_of_its_flops_and_keeps_heads_and_priors() -> None:
    model = build_model("torchvision/ssd300_vgg16", classes=20)
    network = trace(model, images(1, 300))
    assert network.cost_model.dense.macs == pytest.approx(31.4e9, rel=0.03)
    assert all(layer.startswith("head.") for layer in network.frozen)
    # One group a convolution of VGG-16, fc6 and fc7, and the eight further ones; conv4_3 with its scale among them.
    assert len(network.groups) == 13 + 2 + 8
    kept = half(network)
    small = cut(model, network, kept)
    scale = small.get_parameter("backbone.scale_weight")
    assert len(scale) == kept.structure.by_group(network.groups)["backbone.features.21"] < 512
    assert network.cost_model.cost(kept.structure).macs <= 0.5 * network.cost_model.dense.macs
    with torch.no_grad():
        features, heads = heads_of(small, images(1, 300))
    assert [tuple(item.shape[2:]) for item in features] == [(side, side) for side in (38, 19, 10, 5, 3, 1)]
    assert heads["cls_logits"].shape == (1, 8732, 21)
    assert heads["bbox_regression"].shape == (1, 8732, 4)
