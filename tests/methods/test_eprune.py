from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from autoprune.core.space import SearchSpace
from autoprune.errors import ConfigError
from autoprune.methods.eprune import (
    PUBLISHED,
    EPrune,
    net_similarity_order,
    published_betas,
    similarity,
)
from autoprune.methods.filters import producer_filters
from autoprune.methods.registry import make_method
from autoprune.models.cutting.surgery import cut
from autoprune.models.reduction.merging import addition_inputs
from autoprune.models.reduction.selection import keep_best
from autoprune.models.tracing.tracer import trace
from autoprune.models.zoo.catalogue import build_model
from autoprune.strategies import clustering
from autoprune.strategies.clustering import (
    affinity_exemplars,
    density_labels,
    distinct_channels,
    exemplar_evidence,
    merge_tree,
)
from tests.methods.small_subject import small_subject
from tests.models.toy_networks import NETWORKS, UNPROVED, toy


def filters(count: int, seed: int = 0, size: int = 4) -> np.ndarray:
    """Returns filters whose norms spread, as trained ones do."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) * np.exp(0.5 * rng.normal(size=(count, 1)))


def naive_evidence(S: np.ndarray, preference: np.ndarray, damping: float, rounds: int) -> np.ndarray:
    """Affinity propagation by the book: every message in a loop of its own."""
    count = len(S)
    s = S.copy()
    for k in range(count):
        s[k, k] = preference[k]
    r, a = np.zeros((count, count)), np.zeros((count, count))
    for _ in range(rounds):
        old = a.copy()
        for i in range(count):
            for k in range(count):
                rival = max(old[i, j] + s[i, j] for j in range(count) if j != k)
                r[i, k] = damping * r[i, k] + (1 - damping) * (s[i, k] - rival)
        for i in range(count):
            for k in range(count):
                others = sum(max(0.0, r[j, k]) for j in range(count) if j not in (i, k))
                new = others if i == k else min(0.0, r[k, k] + others)
                a[i, k] = damping * a[i, k] + (1 - damping) * new
    return np.diag(r) + np.diag(a)


class TestPropagation:
    @pytest.mark.parametrize("seed", range(3))
    def test_messages_in_loops_find_the_same_exemplars(self, seed):
        S = similarity(filters(9, seed))
        for beta in (0.3, 0.75, 1.2):
            preference = beta * np.median(S, axis=0)
            naive = naive_evidence(S, preference, 0.5, 100)
            np.testing.assert_allclose(
                exemplar_evidence(S, preference, damping=0.5, iterations=100), naive, rtol=1e-8, atol=1e-9
            )
            assert affinity_exemplars(S, beta).tolist() == np.flatnonzero(naive > 0).tolist()

    def test_a_larger_beta_leaves_fewer_exemplars(self):
        S = similarity(filters(60))
        counts = [len(affinity_exemplars(S, beta)) for beta in (0.1, 0.6, 0.9, 1.5, 20.0)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] > 2 * counts[-1]

    def test_equal_norms_in_many_dimensions_fall_off_a_cliff_near_one(self):
        # No beta between gives a width between.
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(64, 2000))
        S = similarity(rows, normalised=True)
        assert len(affinity_exemplars(S, 0.85)) == 64
        assert len(affinity_exemplars(S, 1.05)) < 16

    def test_identical_filters_are_one(self):
        rows = filters(12)
        rows[[3, 5, 7]] = rows[1]
        rows[[0, 9]] = 0.0
        S = similarity(rows)
        assert distinct_channels(S).tolist() == [0, 1, 2, 4, 6, 8, 10, 11]
        assert not set(affinity_exemplars(S, 0.1)) & {3, 5, 7, 9}
        assert affinity_exemplars(similarity(np.zeros((5, 3))), 0.75).tolist() == [0]

    def test_without_convergence_the_damping_rises_and_then_the_best_evidence_decides(self, monkeypatch):
        tried = []

        class Lost:
            def __init__(self, *, damping, max_iter, **_options):
                tried.append((damping, max_iter))
                self.cluster_centers_indices_ = np.empty(0, dtype=int)

            def fit(self, _similarity):
                return self

        monkeypatch.setattr(clustering, "AffinityPropagation", Lost)
        S = similarity(filters(9))
        found = affinity_exemplars(S, 0.75)
        assert tried == [(0.5, 200), (0.9, 1000)]
        assert found.tolist() == [int(naive_evidence(S, 0.75 * np.median(S, axis=0), 0.9, 300).argmax())]


class TestPrimitives:
    def test_a_merge_tree_cut_anywhere_has_that_many_clusters_nested_in_each_other(self):
        rows = filters(20)
        tree = merge_tree(np.sqrt(-similarity(rows)))
        before = np.arange(20)
        for clusters in range(20, 0, -1):
            labels = tree.labels(clusters)
            assert sorted(set(labels.tolist())) == list(range(clusters))
            assert labels[0] == 0
            assert len({(a, b) for a, b in zip(before.tolist(), labels.tolist(), strict=True)}) == len(set(before))
            before = labels
        assert (np.diff(tree.heights) >= 0).all()

    def test_noise_points_are_clusters_of_their_own(self):
        points = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 5.0, 9.0])
        distances = np.abs(points[:, None] - points[None])
        assert density_labels(distances, 0.5, min_samples=5).tolist() == [0, 0, 0, 0, 0, 1, 2]
        assert density_labels(distances, 0.05, min_samples=5).tolist() == list(range(7))


class TestOrder:
    def test_each_channel_raises_the_net_similarity_most(self):
        S = similarity(filters(10))
        exemplars = np.array([2, 5, 7])
        order = net_similarity_order(S, exemplars, 10)
        assert set(order[:3]) == {2, 5, 7}
        assert sorted(order) == list(range(10))
        for width in range(1, 10):
            allowed = set(exemplars if width < 3 else range(10)) - set(order[:width])

            def net(channel, width=width):
                return S[:, [*order[:width], channel]].max(axis=1).sum()

            assert net(order[width]) == pytest.approx(max(net(channel) for channel in allowed))

    def test_a_width_below_the_exemplars_keeps_exemplars_only(self):
        S = similarity(filters(10))
        assert set(net_similarity_order(S, np.array([1, 4, 8]), 2)) < {1, 4, 8}


class TestFilters:
    def test_normalised_filters_ignore_their_norms(self):
        rows = filters(6)
        np.testing.assert_allclose(
            similarity(rows, normalised=True), similarity(3.0 * rows, normalised=True), atol=1e-12
        )
        assert not np.allclose(similarity(rows), similarity(3.0 * rows))

    def test_similarity_is_minus_the_squared_distance(self):
        rows = filters(5)
        S = similarity(rows)
        for i in range(5):
            for j in range(5):
                assert S[i, j] == pytest.approx(-sum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True)))


class TestBudget:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            *((name, {}) for name in sorted(set(NETWORKS) - UNPROVED)),
            ("concatenation", {"normalised": True}),
            ("residual with channel maps", {"beta": 0.7}),
        ],
    )
    def test_the_budget_holds_and_clusters_point_to_kept_channels(self, name, options):
        subject = small_subject(name, budget="70%flops")
        pruned = EPrune(**options).prune(subject)
        assert subject.space.is_legal(pruned.kept.structure)
        assert pruned.model is subject.model
        assert not pruned.fresh_norms
        assert pruned.clusters is not None
        for index, clusters, group in zip(pruned.kept.indices, pruned.clusters, subject.network.groups, strict=True):
            assert len(clusters) == group.width
            assert set(clusters.tolist()) == set(index.tolist())
            assert (clusters[index] == index).all()

    def test_copies_of_a_filter_go_first_and_are_added_exactly(self):
        model = toy("plain").double()
        with torch.no_grad():
            # Channels 4 to 7 of the first layer are copies of 0 to 3, in its norm too; half a layer is redundant.
            for tensor in (*model.layers[0].parameters(), *model.layers[0].buffers()):
                if tensor.dim():
                    tensor[4:] = tensor[:4]
        subject = small_subject(model.float(), budget="99%flops")
        S = similarity(producer_filters(subject.model, subject.network, [0])[0])
        order = net_similarity_order(S, affinity_exemplars(S, 0.05), 4)
        assert {int(channel) % 4 for channel in order} == {0, 1, 2, 3}
        pruned = EPrune(as_published=True, beta=1e-9).prune(subject)
        assert pruned.kept.indices[0].tolist() == [0, 1, 2, 3]
        assert pruned.clusters is not None
        inputs = addition_inputs(subject.network, pruned.kept, pruned.clusters)
        small = cut(model, subject.network, pruned.kept, inputs=inputs)
        torch.testing.assert_close(small(subject.images), model(subject.images))

    def test_a_given_beta_sets_the_proportions(self):
        subject = small_subject("plain")
        found = {beta: EPrune(beta=beta).prune(subject) for beta in (0.05, 0.9)}
        assert found[0.05].facts["exemplars"] > found[0.9].facts["exemplars"]
        assert all(subject.space.is_legal(pruned.kept.structure) for pruned in found.values())

    def test_channels_may_be_chosen_by_their_consumers_norm_instead(self):
        subject = small_subject("plain")
        own, other = EPrune().prune(subject), EPrune(by_norm=True).prune(subject)
        assert own.kept.structure == other.kept.structure
        expected = keep_best(subject.rankings, own.kept.structure.widths)
        assert all((a == b).all() for a, b in zip(other.kept.indices, expected.indices, strict=True))
        assert any(list(a) != list(b) for a, b in zip(own.kept.indices, other.kept.indices, strict=True))

    def test_the_result_is_the_same_every_time(self):
        first, second = (EPrune().prune(small_subject("plain")) for _ in range(2))
        assert all((a == b).all() for a, b in zip(first.kept.indices, second.kept.indices, strict=True))
        assert first.facts == second.facts


class TestAsPublished:
    def test_exemplars_stay_whatever_the_budget_and_norms_start_anew(self):
        found = [EPrune(as_published=True).prune(small_subject(budget=text)) for text in ("30%flops", "90%flops")]
        assert found[0].kept.structure == found[1].kept.structure
        assert found[0].fresh_norms
        subject = small_subject()
        for index, group in enumerate(subject.network.groups):
            S = similarity(producer_filters(subject.model, subject.network, [index])[0])
            expected = np.arange(group.width) if group.coupled else affinity_exemplars(S, 0.75)
            assert found[0].kept.indices[index].tolist() == expected.tolist()
        assert "no published network" in str(found[0].facts["betas"])

    @pytest.mark.parametrize(
        ("spec", "name"),
        [
            ("cifar/vgg16", "VGG-16"),
            ("cifar/vgg16-512head", "VGG-16"),
            ("cifar/googlenet", "GoogLeNet"),
            ("cifar/resnet20-b", None),
            ("cifar/mobilenetv2", None),
        ],
    )
    def test_networks_are_recognised_by_their_layers(self, spec, name):
        network = trace(build_model(spec), torch.zeros(1, 3, 16, 16))
        known = published_betas(network)
        assert (known and known.name.split(" on ")[0]) == name

    def test_the_last_five_convolutions_of_vgg_have_a_beta_of_their_own(self):
        known = published_betas(trace(build_model("cifar/vgg16"), torch.zeros(1, 3, 32, 32)))
        assert known is not None
        assert [known.of(position, known.beta) for position in range(13)] == [0.73] * 8 + [0.92] * 5
        assert [known.of(position, 0.5) for position in (0, 12)] == [0.5, 0.92]

    def test_bottlenecks_first_convolutions_ignore_the_late_beta_but_in_one_case(self):
        resnet50, resnet101 = PUBLISHED[16, 53], PUBLISHED[33, 104]
        assert [resnet50.of(position, 0.73) for position in (24, 25, 26, 27)] == [0.73, 0.73, 0.73, 0.85]
        assert [resnet50.of(position, 0.70) for position in (24, 26, 27)] == [0.70, 0.85, 0.85]
        assert resnet101.of(56, 0.70) == 0.70

    def test_a_network_without_such_layers_is_refused(self):
        subject = small_subject("tokens", budget="70%flops")
        with pytest.raises(ConfigError, match="only convolutions inside blocks"):
            EPrune(as_published=True).prune(subject)


def test_options_are_read_from_texts_and_checked():
    method = make_method("eprune", {"beta": "0.7", "normalised": "true"})
    assert method == EPrune(beta=0.7, normalised=True)
    with pytest.raises(ConfigError, match=r"beta -1.0 of eprune"):
        make_method("eprune", {"beta": "-1"})


def test_widths_are_multiples_where_the_space_asks_for_it():
    subject = small_subject("plain")
    groups = tuple(dataclasses.replace(group, multiple_of=2) for group in subject.network.groups)
    space = SearchSpace(groups, subject.space.cost_model, subject.space.limits)
    structure = EPrune().prune(dataclasses.replace(subject, space=space)).kept.structure
    assert space.is_legal(structure)
