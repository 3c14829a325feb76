from __future__ import annotations

import torch

from autoprune.methods.blocks import published_groups
from autoprune.models.tracing.tracer import trace
from autoprune.models.zoo.catalogue import build_model


def test_of_an_inception_module_the_three_inner_convolutions_are_cut():
    network = trace(build_model("cifar/googlenet"), torch.zeros(1, 3, 8, 8))
    names = [network.groups[index].name for index in published_groups(network)]
    inner = ["branch3x3.0", "branch5x5.0", "branch5x5.3"]
    assert names[:3] == [f"inception_a3.{name}" for name in inner]
    assert names[-3:] == [f"inception_b5.{name}" for name in inner]
    assert len(names) == 27


def test_where_every_convolution_is_concatenated_all_are_cut():
    network = trace(build_model("cifar/densenet40"), torch.zeros(1, 3, 8, 8))
    assert len(published_groups(network)) == len(network.groups) == 39


def test_linear_layers_and_streams_stay_whole():
    network = trace(build_model("cifar/vgg16-512head"), torch.zeros(1, 3, 32, 32))
    assert len(published_groups(network)) == 13 < len(network.groups)
