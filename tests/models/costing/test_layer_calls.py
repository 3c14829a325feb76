"""The shapes of a network's layers as they run on a batch."""

from __future__ import annotations

import pytest
import torch

from autoprune.models.costing.layer_calls import layer_calls
from autoprune.models.tracing.tracer import trace
from tests.models.toy_networks import NETWORKS, SHAPE, images, toy


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 3])
def test_every_layer_has_the_widths_of_the_trace(name, count):
    model = toy(name)
    network = trace(model, torch.zeros(1, *SHAPE))
    dense = network.dense.widths
    for found in layer_calls(model, network, images(count)):
        assert (found.shape.inner, found.shape.out) == (found.inner.of(dense), found.out.of(dense))
