from __future__ import annotations

import numpy as np
import pytest
import torch

from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.selection import consumer_norms, errors_along, filter_norms, keep_best, rank_groups
from autoprune.models.tracing.tracer import trace
from tests.models.toy_networks import NETWORKS, SHAPE, SLICED, images, toy


def problem(channels: int, consumers: int = 1, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(2, channels, 2 * channels, generator=generator, dtype=torch.float64) for _ in range(consumers)]
    return [a @ a.T for a, _ in draws], [b @ b.T for _, b in draws]


def lost(covariance: torch.Tensor, weight: torch.Tensor, kept: list[int]) -> float:
    """The definition: trace(S R) / trace(S C) with R the residual covariance."""
    inner = covariance[kept][:, kept]
    rest = covariance - covariance[:, kept] @ torch.linalg.solve(inner, covariance[kept]) if kept else covariance
    return float((weight * rest).sum() / (weight * covariance).sum())


def test_the_error_is_that_of_its_definition():
    covariances, weights = problem(6, consumers=2)
    order = np.random.default_rng(0).permutation(6)
    found = errors_along(order, covariances, weights)
    for count in range(6):
        kept = order[:count].tolist()
        expected = np.mean([lost(c, s, kept) for c, s in zip(covariances, weights, strict=True)])
        assert found[count] == pytest.approx(expected, abs=1e-7)
    assert found[6] == 0


def test_dependent_and_dead_channels_cost_nothing():
    mix = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mix[5] = 0
    found = errors_along(np.array([0, 1, 2, 5, 3, 4, 6, 7]), [mix @ mix.T], [torch.eye(8, dtype=torch.float64)])
    assert found[3] == pytest.approx(found[4], abs=1e-7)
    assert found[4] > 1e-3
    assert found[5] == pytest.approx(0, abs=1e-7)


def test_channels_that_say_nothing_have_an_error_of_zero_or_one():
    found = errors_along(np.arange(3), [torch.zeros(3, 3)], [torch.eye(3)])
    assert bool(np.isfinite(found).all())
    assert found[0] == 1
    assert found[3] == 0


@pytest.mark.parametrize("way", ["norm", "elimination"])
@pytest.mark.parametrize("name", [*NETWORKS, *SLICED])
def test_every_group_has_a_ranking(name, way):
    model = toy(name)
    network = trace(model, torch.zeros(1, *SHAPE))
    calibration = calibrate(model, network, images(6), seed=0)
    given = images(6) if way == "elimination" else None
    rankings = rank_groups(model, network, calibration, images=given)
    for group, found in zip(network.groups, rankings, strict=True):
        assert sorted(found.order.tolist()) == list(range(group.width))
        assert found.error.shape == (group.width + 1,)
        assert found.error[0] == 1
        assert found.error[-1] == 0
        assert bool((np.diff(found.error) <= 1e-12).all())
    kept = keep_best(rankings, [max(1, group.width // 2) for group in network.groups])
    kept.masks(network)


def test_norms_are_taken_over_all_producers_and_consumers():
    model = toy("residual with projections")
    network = trace(model, torch.zeros(1, *SHAPE))
    stem = network.index["layers.0.0"]
    produced = [model.layers[0][0].weight, model.layers[1].conv2.weight]
    expected = torch.stack([weight.flatten(1).square().sum(1) for weight in produced]).sum(0).sqrt()
    np.testing.assert_allclose(filter_norms(model, network, stem), expected.detach(), rtol=1e-6)
    read = [model.layers[1].conv1.weight, model.layers[2].conv1.weight, model.layers[2].shortcut[0].weight]
    expected = torch.stack([weight.movedim(1, 0).flatten(1).square().sum(1) for weight in read]).sum(0).sqrt()
    np.testing.assert_allclose(consumer_norms(model, network, stem), expected.detach(), rtol=1e-6)
