from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from autoprune.errors import ConfigError
from autoprune.methods.ascp import EXACT, Ascp, SoftClusters, averaging_matrix, copying_matrix
from autoprune.methods.channel_features import group_features
from autoprune.methods.clusters import capped, distances_between, k_means, medoids, representatives, tree
from autoprune.methods.reduction import Reduction, default_reduction, reduced
from autoprune.methods.registry import make_method
from autoprune.methods.schedules import space_at
from autoprune.methods.softly import group_axes, largest_difference, mix_channels
from autoprune.models.merging import addition_inputs
from autoprune.models.surgery import cut
from autoprune.models.weights import state_fingerprint
from autoprune.training.hooks import TrainingState
from tests.methods.small_subject import small_subject
from tests.models.toy_networks import images, toy


def steps(model: nn.Module, hook: SoftClusters, batches: range, *, optimiser: torch.optim.Optimizer) -> None:
    """Drives a hook as the trainer does, one epoch being 4 steps."""
    model.train()
    hook.begin(TrainingState(model, optimiser, 3.0, torch.device("cpu")))
    for step in batches:
        optimiser.zero_grad(set_to_none=True)
        functional.cross_entropy(model(images(8, seed=step)), torch.arange(8) % 4).backward()
        hook.gradients_ready()
        optimiser.step()
        if step % 4 == 3:
            hook.epoch_ended(step // 4 + 1)
    hook.end()
    model.eval()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)


class TestClusters:
    def test_k_means_finds_separated_clusters_and_every_label_occurs(self) -> None:
        rng = np.random.default_rng(0)
        truth = np.repeat(np.arange(4), 5)
        x = rng.normal(size=(4, 6))[truth] * 10 + rng.normal(size=(20, 6)) * 0.1
        for labels in (k_means(x, 4), tree(x, linkage="average").labels(4), tree(x, linkage="ward").labels(4)):
            assert (representatives(labels) == truth * 5).all()
        assert sorted(np.unique(k_means(np.zeros((5, 2)), 3))) == [0, 1, 2]

    def test_k_means_never_does_worse_than_the_labels_it_starts_from(self) -> None:
        rng = np.random.default_rng(1)
        x, previous = rng.normal(size=(30, 4)), rng.permutation(np.arange(30) % 6)

        def within(labels: np.ndarray) -> float:
            return sum(((x[labels == k] - x[labels == k].mean(0)) ** 2).sum() for k in np.unique(labels))

        found = k_means(x, 6, previous=previous)
        assert within(found) < within(previous)
        assert len(np.unique(k_means(x, 9, previous=found))) == 9
        assert len(np.unique(k_means(x, 3, previous=found))) == 3

    def test_no_cluster_is_larger_than_the_cap(self) -> None:
        x = np.concatenate([np.random.default_rng(2).normal(size=(17, 3)) * 0.01, np.eye(3) * 9])
        labels = capped(x, k_means(x, 4), largest=6)
        assert np.bincount(labels).max() <= 6
        assert len(np.unique(labels)) == 4

    def test_heights_do_not_depend_on_the_scale_of_a_layer(self) -> None:
        x = np.random.default_rng(3).normal(size=(12, 5))
        for linkage in ("average", "ward"):
            np.testing.assert_allclose(tree(x, linkage=linkage).heights, tree(7 * x, linkage=linkage).heights)

    def test_a_medoid_is_the_member_nearest_to_the_others(self) -> None:
        x = np.array([[0.0], [1.0], [2.5], [40.0], [41.0], [43.0]])
        assert medoids(x, np.array([0, 0, 0, 1, 1, 1])).tolist() == [1, 1, 1, 4, 4, 4]

    def test_matrices_average_and_copy(self) -> None:
        labels, values = np.array([0, 1, 0]), torch.tensor([1.0, 5.0, 4.0]).double()
        assert (averaging_matrix(labels) @ values).tolist() == [2.5, 5.0, 2.5]
        assert (copying_matrix(np.array([2, 1, 2])) @ values).tolist() == [4.0, 5.0, 4.0]


class TestFeatures:
    def test_they_are_folded_filters_and_biases_of_all_producers(self) -> None:
        subject = small_subject("residual with projections")
        index = next(i for i, group in enumerate(subject.network.groups) if group.name == "layers.2.conv2")
        group = group_axes(subject.network)[index]
        tensors = dict(subject.model.state_dict())
        rows = []
        for channel in range(10):
            row: list[float] = []
            for conv, norm in (("2.conv2", "2.bn2"), ("2.shortcut.0", "2.shortcut.1"), ("3.conv2", "3.bn2")):
                gamma, beta, mean, variance = (
                    float(tensors[f"layers.{norm}.{leaf}"][channel])
                    for leaf in ("weight", "bias", "running_mean", "running_var")
                )
                scale = gamma / (variance + 1e-5) ** 0.5
                row.extend((tensors[f"layers.{conv}.weight"][channel] * scale).flatten().tolist())
                row.append(beta - scale * mean)
            rows.append(row)
        found = group_features(subject.model, group)
        # The features are compressed to N coordinates, which keeps their distances.
        np.testing.assert_allclose(
            distances_between(found, found), distances_between(np.array(rows), np.array(rows)), atol=1e-4
        )

    def test_the_scale_of_batch_norm_counts(self) -> None:
        subject = small_subject("plain")
        group = group_axes(subject.network)[0]
        before = np.linalg.norm(group_features(subject.model, group), axis=1)
        with torch.no_grad():
            subject.model.layers[0][1].weight[2] *= 10
        after = np.linalg.norm(group_features(subject.model, group), axis=1)
        assert after[2] > 3 * before[2]
        np.testing.assert_allclose(np.delete(after, 2), np.delete(before, 2), rtol=1e-6)


#: Chains, residual streams with every kind of shortcut, depthwise, grouped, transposed, reused and functional layers.
EXACT_ON = [
    "plain", "residual with projections", "residual with channel maps", "residual with zero padding", "concatenation",
    "dense blocks", "depthwise", "depthwise with multiplier", "flattened", "channel shuffle", "transposed and resized",
    "reused layers", "functional weights", "slice",
]  # fmt: skip


class TestMerging:
    @pytest.mark.parametrize("name", EXACT_ON)
    @pytest.mark.parametrize("rate", ["uniform", "adaptive"])
    def test_the_merged_network_has_the_logits_of_the_reconstructed_one(self, name: str, rate: str) -> None:
        subject = small_subject(name)
        pruned = Ascp(rate=rate).prune(subject)
        assert subject.space.is_legal(pruned.kept.structure)
        assert pruned.clusters is not None
        for kept, cluster in zip(pruned.kept.indices, pruned.clusters, strict=True):
            assert np.array_equal(np.unique(cluster), kept)
            assert all(cluster[index] == index for index in kept)
        small = reduced(subject, pruned, Reduction.ADDITION)
        assert largest_difference(pruned.model, small, images(6, seed=9)) < EXACT
        assert pruned.exact
        assert default_reduction(pruned, as_published=False) is Reduction.ADDITION

    def test_block_internal_channels_merge_exactly_too(self) -> None:
        subject = replace(small_subject("residual with projections", budget="70%flops", internal=True), epochs=1.0)
        pruned = Ascp(batch_size=8, centre="medoid").prune(subject)
        small = reduced(subject, pruned, Reduction.ADDITION)
        assert largest_difference(pruned.model, small, images(6, seed=9)) < EXACT
        # Slicing drops what the members add.
        sliced = cut(pruned.model, subject.network, pruned.kept)
        assert largest_difference(pruned.model, sliced, images(6, seed=9)) > 1e-3

    def test_without_averaged_batch_norms_the_merge_is_lossy(self) -> None:
        # Trap AS1: equal filters with different batch norms are different channels.
        subject = small_subject("residual with projections")
        differences = {}
        for norms in (True, False):
            model, clusters = copy.deepcopy(subject.model), []
            hook = SoftClusters(subject.network, subject.space, Ascp(), steps=1, edits=1)
            hook.finish(copy.deepcopy(model))
            clusters = hook.clusters
            for group, labels in zip(group_axes(subject.network), clusters, strict=True):
                weights = replace(group, makers=tuple(axis for axis in group.makers if axis.axis or _is_conv(axis.name)))
                mix_channels(model, group if norms else weights, averaging_matrix(labels))
            merged = cut(
                model, subject.network, hook.kept, inputs=addition_inputs(subject.network, hook.kept, clusters)
            )
            differences[norms] = largest_difference(model, merged, subject.images)
        assert differences[True] < EXACT
        assert differences[False] > 100 * EXACT

    def test_dead_channels_are_one_cluster_that_is_zero(self) -> None:
        subject = small_subject("plain")
        norm = subject.model.layers[0][1]
        with torch.no_grad():
            for tensor in (subject.model.layers[0][0].weight, norm.weight, norm.bias):
                tensor[[1, 4, 6]] = 0.0
        model = copy.deepcopy(subject.model)
        hook = SoftClusters(subject.network, subject.space, Ascp(), steps=1, edits=1)
        hook.finish(model)
        assert hook.clusters[0][[1, 4, 6]].tolist() == [1, 1, 1]
        assert (hook.clusters[0] == 1).sum() == 3
        assert not model.layers[0](subject.images)[:, [1, 4, 6]].any()


def _is_conv(name: str) -> bool:
    return "conv" in name or name.endswith(("0.0.weight", "shortcut.0.weight"))


class TestTraining:
    def test_members_diverge_between_edits_and_every_edit_makes_them_equal_again(self) -> None:
        # Trap AS4: consumers of equal filters differ, and so do their gradients.
        subject = small_subject("plain")
        model = copy.deepcopy(subject.model)
        hook = SoftClusters(subject.network, subject.space, Ascp(schedule="const"), steps=12, edits=3)
        optimiser = sgd(model)
        weight = model.layers[0][0].weight

        def spread() -> float:
            first = torch.from_numpy(hook.clusters[0])
            return float((weight - weight[first]).abs().max().detach())

        steps(model, hook, range(4), optimiser=optimiser)
        assert spread() < 1e-7
        momentum = optimiser.state[weight]["momentum_buffer"]
        assert torch.equal(momentum, momentum[torch.from_numpy(hook.clusters[0])])
        steps(model, hook, range(4, 6), optimiser=optimiser)
        assert spread() > 1e-4
        steps(model, hook, range(6, 8), optimiser=optimiser)
        assert spread() < 1e-7

    def test_the_budget_shrinks_with_the_schedule_and_clusters_freeze_at_the_end(self) -> None:
        subject = small_subject("residual with projections")
        model = copy.deepcopy(subject.model)
        hook = SoftClusters(
            subject.network, subject.space, Ascp(schedule="linear", freeze=0.25), steps=12, edits=12
        )
        optimiser = sgd(model)
        costs, clusters = [], []
        for step in range(12):
            steps(model, hook, range(4 * step + 3, 4 * step + 4), optimiser=optimiser)
            costs.append(subject.space.cost(hook.kept.structure).macs)
            clusters.append(np.concatenate(hook.clusters))
        assert all(later <= earlier for earlier, later in zip(costs, costs[1:], strict=False))
        for step, cost in enumerate(costs):
            limit = space_at(subject.space, min(1.0, (step + 1) / 9)).limits[0].ceiling
            assert cost <= limit
        assert all(np.array_equal(item, clusters[8]) for item in clusters[9:])
        assert subject.space.is_legal(hook.kept.structure)

    def test_a_training_that_was_killed_continues_as_if_it_had_not_been(self) -> None:
        subject = small_subject("residual with projections")

        def made() -> tuple[nn.Module, SoftClusters]:
            model = copy.deepcopy(subject.model)
            options = Ascp(rate="uniform", schedule="linear")
            return model, SoftClusters(subject.network, subject.space, options, steps=12, edits=5)

        model, hook = made()
        steps(model, hook, range(12), optimiser=sgd(model))
        hook.finish(model)
        killed, first = made()
        optimiser = sgd(killed)
        # Killed in the middle of an epoch, an edit being due.
        steps(killed, first, range(5), optimiser=optimiser)
        revived, second = made()
        revived.load_state_dict(killed.state_dict())
        resumed = sgd(revived)
        resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        steps(revived, second, range(5, 12), optimiser=resumed)
        second.finish(revived)
        assert state_fingerprint(revived) == state_fingerprint(model)
        assert all(np.array_equal(a, b) for a, b in zip(hook.clusters, second.clusters, strict=True))

    def test_a_stem_loses_at_most_half_the_uniform_share(self) -> None:
        subject = small_subject("plain", budget="50%params")
        model = copy.deepcopy(subject.model)
        with torch.no_grad():
            # All filters of the first layer nearly alike: nothing but the guideline holds them apart.
            first = model.layers[0][0].weight
            first.copy_(first[:1] + 0.01 * first)
        hook = SoftClusters(subject.network, subject.space, Ascp(), steps=1, edits=1)
        hook.finish(model)
        dense, uniform = subject.space.dense.widths, subject.space.uniform().widths
        ratio = np.mean(np.array(uniform) / np.array(dense))
        assert len(hook.kept.indices[0]) >= np.floor(dense[0] * (1 - (1 - ratio) / 2)) > uniform[0]

    def test_a_fraction_of_an_epoch_has_at_least_eight_edits(self) -> None:
        subject = replace(small_subject("plain"), epochs=0.5)
        pruned = Ascp(batch_size=1).prune(subject)
        assert pruned.facts["edits"] == 8
        assert not pruned.model.training
        assert pruned.exact

    def test_the_dense_network_stays_as_it_was(self) -> None:
        subject = replace(small_subject("plain"), epochs=1.0)
        before = state_fingerprint(subject.model)
        Ascp(batch_size=8).prune(subject)
        assert state_fingerprint(subject.model) == before
        assert not subject.model.training


def test_it_cannot_run_as_published() -> None:
    with pytest.raises(ConfigError, match="constants could not be had"):
        make_method("ascp", {"as_published": "true"}).prune(small_subject("plain"))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="'rate' of Ascp is 'adaptiv'"):
        make_method("ascp", {"rate": "adaptiv"})
    with pytest.raises(ConfigError, match=r"'freeze' of Ascp is 1\.0"):
        make_method("ascp", {"freeze": "1"})


def test_a_network_with_equal_filters_only_is_clustered() -> None:
    model = toy("plain")
    with torch.no_grad():
        for parameter in model.layers.parameters():
            parameter.copy_(parameter.mean())
    subject = small_subject(model)
    assert subject.space.is_legal(Ascp().prune(subject).kept.structure)
