from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from autoprune.models.calibration import calibrate
from autoprune.models.selection import consumer_norms, filter_norms, keep_best, rank_groups, ranking
from autoprune.models.tracing import trace
from tests.models.toy_networks import NETWORKS, SHAPE, images, toy


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
    found = ranking(covariances, weights)
    for count in range(6):
        kept = found.order[:count].tolist()
        expected = np.mean([lost(c, s, kept) for c, s in zip(covariances, weights, strict=True)])
        assert found.error[count] == pytest.approx(expected, abs=1e-9)
    assert found.error[6] == 0


def test_each_greedy_step_is_the_best_one():
    (covariance,), (weight,) = problem(6, seed=3)
    order = ranking([covariance], [weight]).order.tolist()
    for count in range(5):
        rest = [lost(covariance, weight, [*order[:count], other]) for other in range(6) if other not in order[:count]]
        assert lost(covariance, weight, order[: count + 1]) == pytest.approx(min(rest))


def test_the_greedy_order_is_close_to_the_best_subset():
    (covariance,), (weight,) = problem(7, seed=1)
    best = min(lost(covariance, weight, list(kept)) for kept in itertools.combinations(range(7), 3))
    assert ranking([covariance], [weight]).error[3] < 1.3 * best


def test_dependent_and_dead_channels_come_last_and_cost_nothing():
    mix = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mix[5] = 0
    found = ranking([mix @ mix.T], [torch.eye(8, dtype=torch.float64)])
    assert found.error[4] == pytest.approx(0, abs=1e-9)
    assert 5 not in found.order[:4]
    assert sorted(found.order.tolist()) == list(range(8))


def test_channels_that_say_nothing_have_an_error_of_zero_or_one():
    found = ranking([torch.zeros(3, 3)], [torch.eye(3)])
    assert bool(np.isfinite(found.error).all())
    assert found.error[0] == 1
    assert found.error[3] == 0


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_has_a_ranking(name, greedy):
    model = toy(name)
    network = trace(model, torch.zeros(1, *SHAPE))
    calibration = calibrate(model, network, images(6), seed=0)
    rankings = rank_groups(model, network, calibration, greedy=greedy)
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
