from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from autoprune.methods.filters import channel_rows, producer_filters
from autoprune.models.network import AxisChannels
from autoprune.models.tracing.tracer import trace
from tests.models.toy_networks import toy


def test_filters_of_several_producers_stand_side_by_side():
    model = toy("residual with projections")
    network = trace(model, torch.zeros(1, 3, 12, 12))
    coupled = next(index for index, group in enumerate(network.groups) if group.coupled)
    (rows,) = producer_filters(model, network, [coupled])
    weights = [model.layers[0][0].weight, model.layers[1].conv2.weight]
    expected = torch.cat([weight.detach().flatten(1) for weight in weights], 1)
    np.testing.assert_allclose(rows, expected.double().numpy())


def test_channels_of_several_occurrences_have_them_side_by_side_and_zeros_where_they_lack_one():
    network = trace(toy("plain"), torch.zeros(1, 3, 12, 12))
    network = replace(network, groups=(replace(network.groups[0], width=3), *network.groups[1:]))

    def rows(*channel):
        layout = AxisChannels(np.array([0, 0, -1, 0, 0]), np.array(channel))
        return channel_rows(
            replace(network, channels=(layout,)), 0, 0, np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
        ).tolist()

    assert rows(1, 0, 0, 2, 1) == [[2, 0], [1, 5], [4, 0]]
    assert rows(0, 1, 0, 0, 1) == [[1, 4], [2, 5], [0, 0]]
