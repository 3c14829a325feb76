from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import ConfigError
from autoprune.models.costing.conventions import Tally, require_convention, tally
from autoprune.models.cutting.surgery import Kept, cut
from autoprune.models.tracing.tracer import trace
from autoprune.models.zoo.catalogue import build_model

#: Logs of CCM-LRR's public code: threshold 0.6 of VGG-16, threshold 0.8 of ResNet-56.
VGG16_WIDTHS = [11, 32, 68, 66, 125, 113, 113, 218, 121, 94, 60, 27, 512]
RESNET56_WIDTHS = [
    16, 11, 12, 12, 12, 11, 12, 12, 12, 11, 12, 10, 12, 7, 12, 1, 12, 8, 12,
    25, 20, 1, 21, 24, 22, 22, 23, 20, 24, 1, 23, 24, 24, 24, 24, 21, 24,
    47, 39, 45, 42, 46, 43, 44, 44, 44, 45, 35, 44, 39, 44, 37, 43, 39, 64,
]  # fmt: skip
SHAPE = (1, 3, 32, 32)


def millions(spec: str) -> list[float]:
    return [round(value / 1e6, 3) for value in tally(build_model(spec), SHAPE).by_convention().values()][:3]


def published_resnet_cost(widths, *, classes=10, side=32):
    """Returns the tally of a CIFAR ResNet as CCM-LRR's public code prunes it, from a list of widths alone.

    There every convolution has a width of its own, the ends of blocks included: the shortcut is centre-padded or
    cropped to whatever width the block ends with. No structure describes such a network, so it cannot be built and is
    counted as a chain in which each convolution reads what the one before it wrote: the stem, then both of each block.
    """
    per_stage = (len(widths) - 1) // 3
    sides = [side] + [side >> (index // per_stage) for index in range(len(widths) - 1)]
    macs = params = elements = 0
    for (read, written), extent in zip(pairwise((3, *widths)), sides, strict=True):
        weights = 9 * read * written
        macs += weights * extent**2
        params += weights + 2 * written
        elements += written * extent**2
    head = widths[-1] * classes
    return Tally(macs + head, params + head + classes, elements, pooling=widths[-1] * (sides[-1] ** 2 + 1))


@pytest.mark.parametrize(
    ("spec", "params", "counts"),
    [
        ("cifar/resnet20-a", 269_722, [40.551, 40.928, 41.305]),
        ("cifar/resnet56-a", 853_018, [125.486, 126.551, 127.616]),
        ("cifar/resnet110-a", 1_727_962, [252.888, 254.985, 257.082]),
        # The table's 314.570 leaves the norm of the head out; the log it cites, 314,571,776, has it.
        ("cifar/vgg16-512head", 14_991_946, [313.464, 314.018, 314.572]),
    ],
)
def test_dense_networks_count_what_papers_print(spec, params, counts):
    assert tally(build_model(spec), SHAPE).params == params
    assert millions(spec) == counts


@pytest.mark.parametrize(
    ("spec", "convention", "logged"),
    [
        ("cifar/resnet56-a", "+4/bn+pool", 127_619_776),
        ("cifar/resnet110-a", "+4/bn+pool", 257_086_144),
        ("cifar/vgg16-512head", "+4/bn", 314_571_776),
    ],
)
def test_dense_networks_count_what_ccm_lrr_logged_to_the_last_operation(spec, convention, logged):
    assert tally(build_model(spec), SHAPE).by_convention()[convention] == logged


def test_the_published_vgg16_at_threshold_0_6_is_counted_exactly_on_the_cut_network():
    model = build_model("cifar/vgg16-512head")
    network = trace(model, torch.zeros(SHAPE))
    widths = [*VGG16_WIDTHS, 512]
    kept = Kept(tuple(np.arange(width) for width in widths))
    found = tally(cut(model, network, kept), SHAPE)
    assert found.params == 1_404_457
    assert found.by_convention()["+4/bn"] == 49_597_376
    cost = network.cost_model.cost(kept.structure)
    assert (found.macs, found.params) == (cost.macs, cost.params)


def test_the_published_resnet56_at_threshold_0_8_is_counted_exactly_from_its_widths():
    found = published_resnet_cost(RESNET56_WIDTHS)
    assert found.params == 376_155
    assert found.by_convention()["+4/bn+pool"] == 55_627_904


def test_the_analytical_chain_counts_a_dense_network_as_running_it_does():
    assert published_resnet_cost([16] * 7 + [32] * 6 + [64] * 6) == tally(build_model("cifar/resnet20-a"), SHAPE)


def test_pooling_counts_its_window_and_a_division_but_subsampling_does_not():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.AvgPool2d(1, 2), nn.AdaptiveAvgPool2d(1))
    assert tally(model, (1, 3, 8, 8)).pooling == 4 * 16 * (4 + 1) + 4 * 1 * (4 + 1)


def test_an_unknown_convention_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"Unknown counting convention '\+4bn'.*\+4/bn"):
        require_convention("+4bn")
