from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.models.network import LayerKind
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.profiling import profile
from autoprune.models.reduction.selection import rank_groups
from autoprune.models.tracing.tracer import trace
from tests.models.toy_networks import NETWORKS, SHAPE, SLICED, images, toy


def profiled(name: str):
    model = toy(name)
    network = trace(model, torch.zeros(1, *SHAPE))
    calibration = calibrate(model, network, images(12), seed=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = profile(model, network, calibration, rank_groups(model, network, calibration), images(12))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    return model, network, found


@pytest.mark.parametrize("name", [*NETWORKS, *SLICED])
def test_every_group_has_finite_statistics_of_its_width(name):
    _, network, found = profiled(name)
    assert [item.name for item in found.groups] == [group.name for group in network.groups]
    for group, item in zip(network.groups, found.groups, strict=True):
        n = group.width
        assert item.width == n
        for kind in ("filter_distances", "folded_distances", "map_distances", "correlation"):
            matrix = getattr(item, kind)
            assert matrix.shape == (n, n)
            assert bool(np.isfinite(matrix).all())
            np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
        assert bool((np.diag(item.filter_distances) == 0).all())
        assert item.map_distances.min() >= 0
        assert item.map_distances.max() <= 2
        assert np.abs(item.correlation).max() <= 1
        assert bool((np.diff(item.weight_quantiles) >= 0).all())
        assert 0 <= item.dead_share <= 1


def test_a_head_is_compared_by_all_of_its_rows():
    model, _, found = profiled("fused heads")
    item = next(item for item in found.groups if item.name == "attention.qkv")
    rows = model.attention.qkv.weight.detach().double().reshape(3, 4, -1).movedim(0, 1).flatten(1)
    np.testing.assert_allclose(item.filter_distances, torch.cdist(rows, rows).square(), atol=1e-5)


def test_the_statistics_are_those_of_their_definitions():
    model, network, found = profiled("plain")
    item = found.groups[network.index["layers.2.0"]]
    weight = model.layers[2][0].weight.detach().double().flatten(1)
    np.testing.assert_allclose(item.filter_distances, torch.cdist(weight, weight).square(), atol=1e-5)
    norm = model.layers[2][1]
    folded = weight * (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double()[:, None]
    np.testing.assert_allclose(item.folded_distances, torch.cdist(folded, folded).square(), atol=1e-5)
    seen = {}
    model.layers[2][0].register_forward_hook(
        lambda _, args, out: seen.update(maps=out.detach().double().mean(0).flatten(1))
    )
    model.layers[2].register_forward_hook(lambda _, args, out: seen.update(rows=out.detach().movedim(1, 0).flatten(1)))
    with torch.no_grad():
        model(images(12))
    cosine = torch.nn.functional.cosine_similarity(seen["maps"][:, None], seen["maps"][None], dim=2)
    np.testing.assert_allclose(item.map_distances, 1 - cosine, atol=1e-5)
    np.testing.assert_allclose(item.correlation, torch.corrcoef(seen["rows"].double()), atol=1e-4)
    assert item.weight_quantiles[-1] == pytest.approx(float(weight.abs().max() / weight.square().mean().sqrt()))


@pytest.mark.parametrize("name", ["flattened", "tokens"])
def test_channels_of_a_linear_layer_are_told_apart_by_their_filters(name):
    model, network, found = profiled(name)
    linear = {call.output: call for call in network.calls if call.kind is LayerKind.LINEAR}
    seen = 0
    for index, item in enumerate(found.groups):
        call = next((linear[key] for key in linear if network.channels[key].members == (index,)), None)
        if call is None:
            continue
        weight = model.get_parameter(call.weight).detach().double()
        if len(weight) == item.width:
            cosine = torch.nn.functional.cosine_similarity(weight[:, None], weight[None], dim=2)
            np.testing.assert_allclose(item.map_distances, 1 - cosine, atol=1e-5)
            seen += 1
    assert seen


def test_dead_channels_are_counted_and_correlate_with_nothing():
    model = toy("plain")
    with torch.no_grad():
        model.layers[0][1].weight[:2] = 0
        model.layers[0][1].bias[:2] = -1
    network = trace(model, torch.zeros(1, *SHAPE))
    calibration = calibrate(model, network, images(12), seed=0)
    found = profile(model, network, calibration, rank_groups(model, network, calibration), images(12)).groups[0]
    assert found.dead_share == pytest.approx(0.25)
    assert not found.correlation[:2].any()
