from __future__ import annotations

import numpy as np

from autoprune.models.network import AxisChannels


def test_positions_come_in_the_order_of_channels_and_those_of_one_channel_ascend():
    layout = AxisChannels(np.array([0, 1, 0, -1, 0, 0]), np.array([1, 0, 0, 0, 1, 0]))
    assert layout.positions(0).tolist() == [2, 5, 0, 4]
    assert layout.places(0, 2).tolist() == [[2, 5], [0, 4]]
    assert layout.places(1, 1).tolist() == [[1]]
