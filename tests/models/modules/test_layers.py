from __future__ import annotations

import pytest
import torch

from autoprune.models.modules.layers import ChannelMap

SOURCES = {
    "a run between zeros": [-1, -1, 0, 1, 2, -1],
    "part of the input": [-1, 1, 2],
    "the identity": [0, 1, 2],
    "a gap": [0, -1, 2],
    "reordered": [2, 0, 1],
    "repeated": [1, 1, -1, 1],
    "zeros alone": [-1, -1],
    "nothing": [],
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3), (1, 3, 7)])
def test_a_channel_map_copies_its_sources_and_fills_with_zeros(source: list[int], shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    expected = torch.zeros(shape[0], len(source), *shape[2:])
    for target, channel in enumerate(source):
        if channel >= 0:
            expected[:, target] = x[:, channel]
    assert torch.equal(ChannelMap(source, 3)(x), expected)


def test_a_channel_map_adds_nothing_to_the_state_dict() -> None:
    assert not ChannelMap([0, -1, 1], 2).state_dict()


def test_a_channel_map_passes_gradients_to_the_copied_channels() -> None:
    x = torch.randn(1, 3, 2, 2, requires_grad=True)
    ChannelMap([1, -1, 1], 3)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.sum(dim=(0, 2, 3)).tolist() == [0, 8, 0]


@pytest.mark.parametrize("source", [[3], [-2]])
def test_a_source_outside_the_input_is_refused(source: list[int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        ChannelMap(source, 3)
