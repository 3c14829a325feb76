from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ConfigError
from autoprune.methods import ccm
from autoprune.methods.ccm import ChannelIndependence, channel_independence, kept_count
from tests.methods.small_subject import small_subject
from tests.models.toy_networks import NETWORKS, Chain, Flatten, settled, unit


def published_loop(maps: Tensor) -> Tensor:
    """One singular value decomposition per image and channel."""
    rows = []
    for image in maps.double():
        whole = torch.linalg.matrix_norm(image, "nuc")
        for channel in range(len(image)):
            zeroed = image.clone()
            zeroed[channel] = 0
            rows.append(whole - torch.linalg.matrix_norm(zeroed, "nuc"))
    return torch.stack(rows).reshape(maps.shape[:2])


def maps_of(kind: str, shape: tuple[int, int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(shape, generator=generator)
    if kind == "sparse":
        maps = (maps - 1).relu()
    elif kind == "dead":
        maps[:, 1::2] = 0
    elif kind == "copies":
        maps[:, 1], maps[:, 3] = maps[:, 0], -2 * maps[:, 2]
    elif kind == "of seven decades":
        maps *= torch.logspace(-5, 2, shape[1])[:, None]
    elif kind == "orthogonal":
        maps = torch.zeros(shape)
        maps[:, range(min(shape[1:])), range(min(shape[1:]))] = torch.arange(1.0, 1 + min(shape[1:]))
    return maps


@pytest.mark.parametrize("shape", [(3, 6, 20), (3, 20, 6), (2, 8, 8), (2, 7, 1), (2, 16, 256)])
@pytest.mark.parametrize("kind", ["normal", "sparse", "dead", "copies", "of seven decades", "orthogonal"])
def test_independence_is_that_of_the_published_loop(kind, shape):
    maps = maps_of(kind, shape)
    largest = float(torch.linalg.svdvals(maps.double()).max())
    torch.testing.assert_close(channel_independence(maps), published_loop(maps), rtol=0, atol=1e-7 * largest)


def test_independence_of_orthogonal_rows_is_their_norm_and_of_zeros_zero():
    maps = torch.diag(torch.tensor([3.0, 0.0, 4.0]))[None]
    torch.testing.assert_close(channel_independence(maps), torch.tensor([[3.0, 0.0, 4.0]]).double())
    assert not channel_independence(torch.zeros(2, 3, 4)).any()


def test_blocks_change_nothing(monkeypatch):
    maps = maps_of("sparse", (7, 6, 20))
    whole = channel_independence(maps)
    monkeypatch.setattr(ccm, "_BLOCK", 6 * 100 * 2)
    assert torch.equal(channel_independence(maps), whole)


def test_the_threshold_is_exceeded_strictly_and_the_crossing_channel_stays():
    values = np.array([1.0, 4.0, 2.0, 1.0])
    assert [kept_count(values, theta) for theta in (0.49, 0.5, 0.51, 0.74, 0.75, 0.9, 1.0)] == [1, 2, 2, 2, 3, 4, 4]
    assert kept_count(np.zeros(3), 0.6) == 3


@pytest.mark.parametrize("name", NETWORKS)
def test_the_budget_holds_on_every_network(name):
    given = small_subject(name, budget="80%flops")
    pruned = ChannelIndependence(images=8).prune(given)
    assert given.space.is_legal(pruned.kept.structure)
    assert pruned.model is given.model
    assert pruned.fresh_norms is False


@pytest.mark.parametrize("internal", [True, False])
def test_the_most_independent_channels_are_kept(internal):
    given, method = small_subject(internal=internal), ChannelIndependence(images=16)
    scores, kept = method.scores(given), method.prune(given).kept
    for row, index in zip(scores, kept.indices, strict=True):
        assert row.sum() == pytest.approx(1)
        removed = np.setdiff1d(np.arange(len(row)), index)
        assert len(removed) == 0 or row[index].min() >= row[removed].max()


def test_a_larger_budget_keeps_a_larger_share():
    small, large = (
        ChannelIndependence(images=16).prune(small_subject("plain", budget=budget)).facts
        for budget in ("40%flops", "70%flops")
    )
    assert all(small[key] < large[key] for key in small)


def test_a_stream_scores_the_mean_of_its_normalised_maps():
    given = small_subject("residual with channel maps")
    outputs: list[Tensor] = []
    for layer in given.model.layers:
        layer.register_forward_hook(lambda _, args, out: outputs.append(out.flatten(2)))
    with torch.no_grad():
        given.model(given.data.train.take(given.training))
    # Option A: the six channels of the first stage are channels 2 to 7 of the ten of the second.
    places = [outputs[0], outputs[1], outputs[2][:, 2:8], outputs[3][:, 2:8]]
    found = [published_loop(maps).sum(0).numpy() for maps in places]
    expected = np.mean([row / row.sum() for row in found], axis=0)
    scores = ChannelIndependence().scores(given)
    np.testing.assert_allclose(scores[given.network.index["layers.0.0"]], expected, atol=1e-6)


def test_hidden_linear_layers_take_images_for_positions():
    given = small_subject(settled(Flatten()), budget="80%flops")
    seen: list[Tensor] = []
    given.model.out.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    with torch.no_grad():
        given.model(given.data.train.take(given.training))
    expected = published_loop(seen[0].T[None])[0].numpy()
    scores = ChannelIndependence().scores(given)[given.network.index["hidden"]]
    np.testing.assert_allclose(scores, expected / expected.sum(), atol=1e-6)


class Head(nn.Module):
    """Two convolutions and a hidden linear layer, as VGG-16 in small."""

    def __init__(self) -> None:
        super().__init__()
        self.features = Chain(nn.Sequential(unit(3, 8), unit(8, 10), unit(10, 6)), 6).layers
        self.hidden, self.norm, self.out = nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.hidden(self.features(x).mean((2, 3))))))


def test_as_published_ignores_the_budget_and_leaves_the_last_convolution_and_hidden_layers_whole():
    torch.manual_seed(0)
    given = small_subject(settled(Head()), budget="80%flops")
    method = ChannelIndependence(theta=0.6, as_published=True)
    pruned = method.prune(given)
    widths = dict(zip(given.network.index, pruned.kept.structure, strict=True))
    assert widths["features.2.0"] == 6
    assert widths["hidden"] == 9
    scores = method.scores(given)
    for name in ("features.0.0", "features.1.0"):
        row = scores[given.network.index[name]]
        kept = pruned.kept.indices[given.network.index[name]]
        assert row[kept].sum() > 0.6 >= np.sort(row)[::-1][: len(kept) - 1].sum()
    assert pruned.fresh_norms is True
    assert pruned.facts["theta"] == 0.6


def test_the_same_seed_reads_the_same_images_and_no_image_outside_the_training_part():
    given, method = small_subject("plain"), ChannelIndependence(images=8)
    taken: list[int] = []
    train = given.data.train

    class Watched:
        labels = train.labels

        def __len__(self) -> int:
            return len(train)

        def take(self, indices):
            taken.extend(int(index) for index in indices)
            return train.take(indices)

    watched = replace(given, data=replace(given.data, train=Watched()))
    first, second = method.prune(watched).kept, method.prune(watched).kept
    assert all(np.array_equal(a, b) for a, b in zip(first.indices, second.indices, strict=True))
    assert taken[:8] == taken[8:]
    assert set(taken) <= set(given.training.tolist())


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match=r"'theta' of ccm is 1\.5\. Write a share between 0 and 1"):
        ChannelIndependence(theta=1.5)
    with pytest.raises(ConfigError, match=r"'images' of ccm is 0"):
        ChannelIndependence(images=0)
