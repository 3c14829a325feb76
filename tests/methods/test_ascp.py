import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import ConfigError
from autoprune.methods.ascp import Ascp, SoftClusters, averaging, capped, channel_features, choosing
from autoprune.methods.reduction import Reduction, reduced
from autoprune.methods.softly import group_axes, mix_channels
from autoprune.models.cutting.surgery import Kept, cut
from autoprune.models.reduction.merging import addition_inputs
from autoprune.training.recipe import Recipe
from autoprune.training.trainer import train
from tests.methods.differences import largest_difference
from tests.methods.small_subject import small_subject
from tests.models.toy_networks import Chain, images, unit

NETWORKS = ("residual with projections", "concatenation", "flattened", "squeeze and excite")


def hook_of(subject, *, steps=16, edits=8, rates="adaptive", representative="mean", schedule="exp"):
    return SoftClusters(
        subject.network,
        subject.space,
        group_axes(subject.network),
        rates=rates,
        schedule=schedule,
        representative=representative,
        steps=steps,
        edits=edits,
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_adding_the_members_of_clusters_leaves_the_trained_outputs_as_they_are(network):
    subject = replace(small_subject(network), epochs=2.0)
    pruned = Ascp(batch_size=8).prune(subject)
    assert pruned.exact
    merged = reduced(subject, pruned, Reduction.ADDITION)
    assert subject.space.is_legal(pruned.kept.structure)
    assert largest_difference(pruned.model, merged, images(6)) < 1e-4
    # Slicing the same channels is no such thing: the test above cannot pass by accident.
    sliced = cut(pruned.model, subject.network, pruned.kept).eval()
    assert largest_difference(pruned.model, sliced, images(6)) > 1e-3


class Normed(Chain):
    """Divides every position by the norm over its channels, no layer's sum."""

    def __init__(self):
        super().__init__(nn.Sequential(unit(3, 8), unit(8, 8)), 6)
        self.last = unit(8, 6)

    def body(self, x):
        x = self.layers(x)
        return self.last(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-3))


@pytest.mark.parametrize("network", ["one head", "norm over channels"])
def test_an_addition_that_a_sum_over_channels_feels_is_none_without_loss(network):
    torch.manual_seed(0)
    subject = small_subject(Normed() if network == "norm over channels" else network, budget="70%flops")
    pruned = Ascp().prune(subject)
    added = addition_inputs(subject.network, pruned.kept, pruned.clusters)
    merged = cut(pruned.model, subject.network, pruned.kept, inputs=added).eval()
    assert largest_difference(pruned.model, merged, images(6)) > 1e-3
    assert not pruned.exact


def test_without_averaged_batch_norms_the_addition_is_lossy():
    subject = small_subject(internal=True)
    hook, model = hook_of(subject), copy.deepcopy(subject.model)
    labels = hook.settle(model)
    dense = dict(subject.model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # batch norms as they were, filters averaged
                parameter.copy_(dense[name])
    first = [np.array([np.flatnonzero(row == label)[0] for label in row]) for row in labels]
    kept = Kept(tuple(np.unique(row) for row in first))
    merged = cut(model, subject.network, kept, inputs=addition_inputs(subject.network, kept, first)).eval()
    assert largest_difference(model, merged, images(6)) > 1e-4


@pytest.mark.parametrize("rates", ["adaptive", "uniform"])
@pytest.mark.parametrize("representative", ["mean", "medoid"])
@pytest.mark.parametrize("network", ["residual with projections", "transposed and resized", "depthwise on the image"])
def test_clusters_are_as_many_as_the_budget_allows_and_their_members_equal(rates, representative, network):
    subject = small_subject(network)
    hook, model = hook_of(subject, rates=rates, representative=representative), copy.deepcopy(subject.model)
    labels = hook.settle(model)
    widths = tuple(int(row.max()) + 1 for row in labels)
    assert subject.space.is_legal(type(subject.space.dense)(widths))
    for group, row in zip(group_axes(subject.network), labels, strict=True):
        features = channel_features(model, subject.network, group)
        for label in np.unique(row):
            members = features[row == label]
            np.testing.assert_array_equal(members, np.repeat(members[:1], len(members), axis=0))


def test_the_number_of_clusters_falls_while_the_training_goes_on():
    subject = small_subject()
    hook = hook_of(subject, schedule="linear")
    seen = []
    hook.reconstruct = lambda model, labels, features: seen.append(sum(int(row.max()) + 1 for row in labels))
    for progress in (0.1, 0.4, 0.7, 0.95):
        hook.edit(subject.model, progress)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > seen[-1]


def test_momentum_is_averaged_with_the_weights():
    subject = small_subject(internal=True)
    model = copy.deepcopy(subject.model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(images(4)).sum().backward()
    optimiser.step()
    group = group_axes(subject.network)[0]
    labels = np.zeros(group.width, dtype=np.int64)
    mix_channels(model, group, torch.from_numpy(averaging(labels)), optimiser=optimiser)
    axis = group.makers[0]
    buffer = optimiser.state[dict(model.named_parameters())[axis.name]]["momentum_buffer"]
    rows = axis.rows(buffer)
    assert torch.equal(rows, rows[:1].expand_as(rows))


def test_equal_filters_part_after_a_step_so_that_clusters_must_be_imposed_again():
    subject = small_subject(internal=True)
    model = copy.deepcopy(subject.model)
    hook = hook_of(subject)
    hook.settle(model)
    before = [channel_features(model, subject.network, group) for group in group_axes(subject.network)]
    train(model, subject.data.train, subject.training, Recipe(1.0, 0.05, batch_size=8), seed=0)
    after = [channel_features(model, subject.network, group) for group in group_axes(subject.network)]

    def distinct(features):
        return sum(len(np.unique(rows.round(7), axis=0)) for rows in features)

    assert distinct(after) > distinct(before)


def test_no_cluster_grows_beyond_its_capacity_unless_its_members_are_equal():
    points = np.array([0.0, 0.1, 0.2, 0.3, 0.35, 10.0, 20.0])[:, None]
    distances = np.abs(points - points.T)
    labels = np.array([0, 0, 0, 0, 0, 1, 2])
    sizes = np.bincount(capped(distances, labels, capacity=3))
    assert sizes.max() == 3
    assert sizes.min() >= 1
    dead = np.array([0.0, 0, 0, 0, 0, 10.0, 20.0])[:, None]
    np.testing.assert_array_equal(capped(np.abs(dead - dead.T), labels, capacity=3), labels)


def test_averages_and_medoids_are_those_of_a_loop():
    labels = np.array([0, 1, 0, 0, 1])
    features = np.random.default_rng(0).normal(size=(5, 3))
    mean, medoid = averaging(labels) @ features, choosing(labels, features) @ features
    for channel in range(5):
        members = [other for other in range(5) if labels[other] == labels[channel]]
        np.testing.assert_allclose(mean[channel], np.mean([features[other] for other in members], axis=0))
        sums = [sum(np.linalg.norm(features[one] - features[other]) for other in members) for one in members]
        np.testing.assert_allclose(medoid[channel], features[members[int(np.argmin(sums))]])


def test_a_resumed_training_settles_on_the_same_clusters():
    subject = small_subject()
    model = copy.deepcopy(subject.model)
    first = hook_of(subject)
    labels = first.settle(model)
    second = hook_of(subject)
    second.load_state_dict(first.state_dict())
    other = copy.deepcopy(subject.model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    for left, right in zip(labels, second.settle(other), strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_dense_network_is_left_alone():
    subject = replace(small_subject(), epochs=1.0)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    Ascp(batch_size=8).prune(subject)
    for name, value in subject.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"as_published": True}, "the paper's constants could not be had"),
        ({"rates": "greedy"}, "Unknown rates 'greedy'"),
        ({"representative": "mode"}, "Unknown representative 'mode'"),
        ({"schedule": "step"}, "Unknown schedule 'step'"),
    ],
)
def test_what_there_is_not_is_one_clear_line(options, message):
    with pytest.raises(ConfigError, match=message):
        Ascp(**options)
