from __future__ import annotations

import numpy as np
import torch

from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.similarity import (
    correlation,
    cosine_distances,
    input_covariance,
    nearest_kept,
    squared_distances,
)
from autoprune.models.tracing.tracer import trace
from tests.models.toy_networks import SHAPE, images, toy


def test_cosine_distances_are_those_of_the_angle():
    rows = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
    expected = [[0, 0, 1, 2, 1], [0, 0, 1, 2, 1], [1, 1, 0, 1, 1], [2, 2, 1, 0, 1], [1, 1, 1, 1, 0]]
    np.testing.assert_allclose(cosine_distances(rows), expected, atol=1e-12)


def test_squared_distances_are_those_of_the_definition():
    rows = np.random.default_rng(0).normal(size=(6, 4))
    np.testing.assert_allclose(squared_distances(rows), ((rows[:, None] - rows[None]) ** 2).sum(2), atol=1e-12)


def test_the_nearest_kept_channel_stands_for_each_and_a_kept_one_for_itself():
    distances = np.array([[0.0, 0.0, 9.0], [0.0, 0.0, 1.0], [9.0, 1.0, 0.0]])
    assert nearest_kept(distances, np.array([0, 2])).tolist() == [0, 0, 2]
    assert nearest_kept(distances, np.array([0, 1])).tolist() == [0, 1, 1]


def test_correlations_ignore_scales_and_dead_channels_correlate_with_nothing():
    seen = np.random.default_rng(0).normal(size=(3, 50))
    found = correlation(np.cov(np.concatenate([seen * [[1.0], [10.0], [0.1]], np.zeros((1, 50))])))
    np.testing.assert_allclose(found[:3, :3], np.corrcoef(seen), atol=1e-12)
    assert np.diag(found).tolist() == [1, 1, 1, 0]
    assert not found[3].any()


def test_a_flattened_map_has_the_mean_covariance_of_its_positions():
    model = toy("flattened")
    network = trace(model, torch.zeros(1, *SHAPE))
    calibration = calibrate(model, network, images(12), seed=0)
    call, group = next(
        (call, group)
        for call in network.calls
        if call.input is not None and call.call in calibration.moments
        for group in network.channels[call.input].members
        if len(network.channels[call.input].group) > network.groups[group].width
    )
    width = network.groups[group].width
    places = network.channels[call.input].places(group, width)
    assert sorted(places.flatten().tolist()) == list(range(len(network.channels[call.input].group)))
    whole = calibration.covariance(call.call).double().numpy().reshape(width, places.shape[1], width, -1)
    expected = np.mean([whole[:, place, :, place] for place in range(places.shape[1])], axis=0)
    np.testing.assert_allclose(input_covariance(network, calibration, call, group), expected, atol=1e-6)
