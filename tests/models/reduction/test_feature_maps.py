from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.models.reduction.feature_maps import map_distances, mean_maps
from autoprune.models.reduction.similarity import cosine_distances
from autoprune.models.tracing.tracer import trace
from tests.models.toy_networks import SHAPE, BatchDependent, images, settled, toy


@pytest.mark.parametrize("batch", [5, 11, 12, 50])
def test_maps_are_convolution_outputs_averaged_over_images(batch):
    model, batch_of = toy("plain"), images(12)
    network = trace(model, torch.zeros(1, *SHAPE))
    calls = [call for call in network.calls if call.weight.startswith("layers")]
    found = mean_maps(model, calls, batch_of, batch=batch)
    seen: list[torch.Tensor] = []
    for layer in (0, 2, 3):
        model.layers[layer][0].register_forward_hook(lambda _, args, out: seen.append(out.clone()))
    with torch.no_grad():
        model(batch_of)
    assert len(calls) == len(seen)
    for call, outputs in zip(calls, seen, strict=True):
        np.testing.assert_allclose(found[call.call], outputs.double().mean(0).flatten(1).numpy(), atol=1e-6)


def test_no_forward_pass_sees_more_images_than_a_batch_nor_a_single_one_left_over():
    model = toy("plain")
    network = trace(model, torch.zeros(1, *SHAPE))
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    mean_maps(model, network.calls[:1], images(11), batch=5)
    assert sorted(sizes) == [3, 4, 4]


@pytest.mark.parametrize("positions", [0, 1])
def test_filters_are_compared_where_a_map_has_no_direction(positions):
    rng = np.random.default_rng(0)
    maps, filters = rng.normal(size=(6, positions)), rng.normal(size=(6, 4))
    np.testing.assert_array_equal(map_distances(maps, filters), cosine_distances(filters))
    wide = rng.normal(size=(6, 2))
    np.testing.assert_array_equal(map_distances(wide, filters), cosine_distances(wide))


def test_a_layer_that_does_not_run_in_its_place_on_a_batch_has_no_map():
    model = settled(BatchDependent())
    network = trace(model, torch.zeros(1, *SHAPE))
    layers = {call.call: call.layer for call in network.calls}
    alone, together = (mean_maps(model, network.calls, images(count)) for count in (1, 4))
    assert [layers[number] for number in alone] == ["stem.0", "middle.0", "last.0", "head"]
    assert [layers[number] for number in together] == ["stem.0"]


def test_layers_of_learned_tokens_run_in_their_place_on_a_batch():
    model = toy("learned queries")
    network = trace(model, torch.zeros(1, *SHAPE))
    assert len(mean_maps(model, network.calls, images(4))) == len(network.calls)
