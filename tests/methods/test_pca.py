from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import qr
from torch import nn

from autoprune.errors import ConfigError
from autoprune.methods.pca import PrincipalComponents, component_count, covariances_of, pivoted_order
from tests.methods.small_subject import small_subject
from tests.models.toy_networks import NETWORKS, Chain, settled, unit


def activations(rows=200, channels=9, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, channels)) @ rng.normal(size=(channels, channels))
    return values - values.mean(0)


def test_pivots_are_those_of_a_qr_decomposition_with_column_pivoting():
    values = activations()
    np.testing.assert_array_equal(pivoted_order(values.T @ values), qr(values, pivoting=True)[2])
    standard = values / np.linalg.norm(values, axis=0)
    first = np.zeros(9)
    first[0] = 1  # of equal columns LAPACK takes the first
    np.testing.assert_array_equal(
        pivoted_order(standard.T @ standard, first=first)[1:3], qr(standard, pivoting=True)[2][1:3]
    )


def test_a_channel_that_others_predict_comes_after_all_that_they_do_not():
    values = activations()
    values[:, 4] = values[:, 1] - 2 * values[:, 7]
    values[:, 6] = 0
    order = pivoted_order(values.T @ values).tolist()
    assert order[-1] == 6
    assert sorted(order) == list(range(9))
    assert order[-2] in (1, 4, 7)


def test_the_count_is_the_smallest_that_explains_the_share():
    eigenvalues = np.array([1.0, 5.0, 3.0, 1.0])
    for theta in np.linspace(0.01, 1.0, 57):
        enough = [m for m in range(1, 5) if sum([5.0, 3.0, 1.0, 1.0][:m]) >= theta * 10 - 1e-9]
        assert component_count(eigenvalues, theta) == enough[0], theta
    assert component_count(np.zeros(3), 0.9) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_budget_holds_on_every_network(name):
    given = small_subject(name, budget="80%flops")
    pruned = PrincipalComponents().prune(given)
    assert given.space.is_legal(pruned.kept.structure)
    assert pruned.model is given.model
    pruned.kept.masks(given.network)


@pytest.mark.parametrize("internal", [True, False])
def test_a_larger_budget_keeps_more_of_every_order(internal):
    small, large = (
        PrincipalComponents().prune(small_subject(budget=budget, internal=internal))
        for budget in ("40%flops", "70%flops")
    )
    assert large.facts["mean explained share"] > small.facts["mean explained share"]


def copies() -> nn.Module:
    """A chain whose second layer writes every channel twice."""
    torch.manual_seed(0)
    model = settled(Chain(nn.Sequential(unit(3, 8), unit(8, 12), unit(12, 8)), 8))
    with torch.no_grad():
        for tensor in (
            *model.layers[1][0].parameters(),
            *model.layers[1][1].parameters(),
            *model.layers[1][1].buffers(),
        ):
            if tensor.ndim:
                tensor[6:] = tensor[:6]
    return model


def test_of_copies_one_is_kept_and_the_group_of_copies_is_cut_first():
    given = small_subject(copies(), budget="60%flops")
    kept = PrincipalComponents().prune(given).kept.indices[given.network.index["layers.1.0"]]
    assert len(kept) == 6
    assert sorted(channel % 6 for channel in kept) == list(range(6))


def test_covariance_weighs_channels_by_their_variance():
    loud = copies()
    with torch.no_grad():
        loud.layers[1][1].weight[3] *= 100
    given = small_subject(loud)
    (covariance,) = covariances_of(given, given.network.index["layers.1.0"])
    assert pivoted_order(covariance)[0] == 3
    kept = PrincipalComponents(statistic="covariance").prune(given).kept.indices[given.network.index["layers.1.0"]]
    assert 3 in kept


def test_what_is_ours_cannot_run_as_published():
    with pytest.raises(ConfigError, match="no procedure was published"):
        PrincipalComponents(as_published=True)
    with pytest.raises(ConfigError, match=r"'statistic' of pca is 'variance'\. Write correlation or covariance"):
        PrincipalComponents(statistic="variance")
