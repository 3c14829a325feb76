from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from torch import nn

from autoprune.errors import ConfigError
from autoprune.methods.acp import Acp, cluster_order, stacked_maps
from autoprune.methods.registry import make_method
from autoprune.methods.swarm import (
    clean_move,
    clean_swarm,
    inertia,
    population,
    published_move,
    published_swarm,
)
from autoprune.models.reduction.similarity import cosine_distances
from autoprune.strategies.clustering import density_labels
from tests.methods.small_subject import small_subject
from tests.models.toy_networks import NETWORKS, UNPROVED

LAYERS = 12
DENSE = np.array([64] * LAYERS)


def naive_labels(distances: np.ndarray, eps: float, min_samples: int) -> list[set[int]]:
    """DBSCAN by its definition: cores that reach each other, what a core reaches, and the rest one by one."""
    count = len(distances)
    near = [{j for j in range(count) if distances[i, j] <= eps} for i in range(count)]
    cores = [i for i in range(count) if len(near[i]) >= min_samples]
    clusters: list[set[int]] = []
    for core in cores:
        joined = [found for found in clusters if any(j in near[core] for j in found & set(cores))]
        merged = {core}.union(*joined)
        clusters = [found for found in clusters if found not in joined] + [merged]
    taken: set[int] = set()
    for found in clusters:
        found |= {j for i in found & set(cores) for j in near[i] if j not in taken and j not in set(cores)}
        taken |= found
    return [*clusters, *({i} for i in range(count) if i not in taken)]


class TestStage:
    def test_maps_of_a_stream_stand_side_by_side(self):
        subject = small_subject("residual with projections")
        stream = next(index for index, group in enumerate(subject.network.groups) if group.coupled)
        maps = stacked_maps(subject.model, subject.network, subject.images)[stream]
        assert maps.shape == (6, 2 * 144)

    @pytest.mark.parametrize("eps", [0.02, 0.1, 0.3])
    def test_clusters_and_noise_are_those_of_the_definition(self, eps):
        rng = np.random.default_rng(3)
        distances = cosine_distances(rng.normal(size=(40, 3)))
        labels = density_labels(distances, eps, min_samples=5)
        naive = naive_labels(distances, eps, 5)
        assert labels.max() + 1 == len(naive)
        clusters = [found for found in naive if len(found) > 1]
        noise = {next(iter(found)) for found in naive if len(found) == 1}
        assert noise == {int(i) for i in range(40) if (labels == labels[i]).sum() == 1}
        # A point on the border of two clusters belongs to either.
        assert sum(len(found) for found in clusters) == 40 - len(noise)

    def test_the_width_falls_as_eps_grows(self):
        rng = np.random.default_rng(0)
        distances = cosine_distances(rng.normal(size=(60, 3)))
        widths = [density_labels(distances, eps).max() + 1 for eps in np.linspace(1e-3, 1.0, 60)]
        assert widths == sorted(widths, reverse=True)
        assert widths[0] == 60
        assert widths[-1] == 1

    def test_a_clusters_largest_norm_stands_for_it(self):
        labels = np.array([0, 0, 0, 1, 1, 2])
        l1 = np.array([1.0, 5.0, 2.0, 3.0, 4.0, 0.5])
        assert cluster_order(labels, l1).tolist() == [1, 4, 5, 3, 2, 0]


class TestBudget:
    @pytest.mark.parametrize("name", sorted(set(NETWORKS) - UNPROVED))
    def test_the_budget_holds_and_clusters_point_to_kept_channels(self, name):
        subject = small_subject(name, budget="70%flops")
        pruned = Acp(min_samples=2).prune(subject)
        assert subject.space.is_legal(pruned.kept.structure)
        assert not pruned.fresh_norms
        assert pruned.clusters is not None
        for index, clusters, group in zip(pruned.kept.indices, pruned.clusters, subject.network.groups, strict=True):
            assert len(clusters) == group.width
            assert set(clusters.tolist()) == set(index.tolist())
            assert (clusters[index] == index).all()

    def test_a_given_eps_sets_the_proportions(self):
        subject = small_subject("plain", budget="70%flops")
        found = {eps: Acp(eps=eps, min_samples=2).prune(subject) for eps in (0.01, 1.0)}
        assert found[0.01].facts["clusters"] > found[1.0].facts["clusters"]
        assert all(subject.space.is_legal(pruned.kept.structure) for pruned in found.values())

    def test_the_swarm_is_no_worse_than_where_it_starts_and_stays_within_the_budget(self):
        subject = small_subject(budget="50%flops")
        told: list[tuple[float, float]] = []
        subject = dataclasses.replace(subject, progress=lambda done, total: told.append((done, total)))
        pruned = Acp(min_samples=2, swarm=True, particles=4, cycles=3, fitness_images=8).prune(subject)
        assert subject.space.is_legal(pruned.kept.structure)
        assert pruned.facts["fitness"] >= pruned.facts["fitness_at_start"]
        assert pruned.facts["evaluations"] <= 16
        assert told == [(done, 16) for done in range(1, 17)]
        again = Acp(min_samples=2, swarm=True, particles=4, cycles=3, fitness_images=8).prune(subject)
        assert again.facts == pruned.facts


class TestPublishedSwarm:
    def moves(self, count: int = 300):
        """Returns what many independent moves of one particle do to its layers."""
        rng = np.random.default_rng(0)
        x, v = np.full(LAYERS, 30), rng.uniform(0.6, 2.0, LAYERS)
        best = np.full(LAYERS, 50)
        found = [
            published_move(x, v, own_best=best, best=best, dense=DENSE, inertia=0.6, rng=rng) for _ in range(count)
        ]
        return x, v, np.array([one for one, _ in found]), np.array([one for _, one in found])

    def test_a1_the_last_layer_never_moves_and_all_others_do(self):
        x, _, moved, _ = self.moves()
        assert (moved != x).any(axis=0).tolist() == [True] * (LAYERS - 1) + [False]

    def test_a1_velocities_beyond_the_eighth_layer_are_frozen(self):
        _, v, _, velocities = self.moves()
        assert (velocities != v).any(axis=0).tolist() == [True] * 8 + [False] * (LAYERS - 8)
        assert (velocities[:, 8:] == v[8:]).all()

    def test_a2_positions_move_twice_as_far_by_the_velocity_before_its_refresh(self):
        x, v, moved, _ = self.moves()
        steps = {(layer, int(row[layer] - x[layer])) for row in moved for layer in range(LAYERS)}
        for layer in range(LAYERS - 1):
            once = math.trunc(30 + 2 * v[layer])
            taken = sorted(step for where, step in steps if where == layer)
            assert taken[:2] == [0, once - 30]

    def test_a3_a_moved_layer_is_never_dense(self):
        rng = np.random.default_rng(0)
        x, v = DENSE.copy(), np.full(LAYERS, 2.0)
        moved, _ = published_move(x, v, own_best=x, best=x, dense=DENSE, inertia=0.6, rng=rng)
        assert set(moved.tolist()) == {63, 64}
        x = np.full(LAYERS, 2)
        moved, _ = published_move(x, -v, own_best=x, best=x, dense=DENSE, inertia=0.6, rng=rng)
        assert set(moved.tolist()) == {1, 2}

    def test_a4_a_better_find_leads_the_next_particle_of_the_same_cycle(self):
        # Wider is better, so that nearly every particle takes over the lead.
        seen: list[np.ndarray] = []

        def fitness(widths):
            seen.append(widths.copy())
            return float(widths[:-1].sum())

        flight = published_swarm(
            np.full(LAYERS, 30), DENSE, fitness, particles=3, cycles=4, rng=np.random.default_rng(0)
        )
        assert len(seen) == 3 * 5
        assert flight.fitness == max(float(one[:-1].sum()) for one in seen)
        naive = self.naive_swarm(3, 4)
        assert [one.tolist() for one in seen] == naive

    def naive_swarm(self, particles: int, cycles: int) -> list[list[int]]:
        """The update as the released code computes it, number by number; returns every structure it evaluates."""
        rng = np.random.default_rng(0)
        signs = rng.integers(-1, 2, (particles, LAYERS))
        x = [[min(64, max(1, 30 + i * int(s))) for s in signs[i]] for i in range(particles)]
        v = rng.uniform(-2.0, 2.0, (particles, LAYERS)).tolist()
        own = [list(row) for row in x]
        seen = [list(row) for row in x]
        best = list(max(x, key=lambda row: sum(row[:-1])))
        for cycle in range(cycles):
            w = 0.4 + 0.5 * (cycles - cycle) / 20
            for i in range(particles):
                old = list(x[i])
                for p in rng.integers(0, LAYERS - 1, 8):
                    x[i][p] = min(max(int(x[i][p] + 2 * v[i][p]), 1), 63)
                r = rng.random()
                for j in range(8):
                    step = 0.729 * (w * v[i][j] + 2 * r * (own[i][j] - old[j]) + 2 * r * (best[j] - old[j]))
                    v[i][j] = min(2.0, max(-2.0, step))
                seen.append(list(x[i]))
                if sum(x[i][:-1]) > sum(best[:-1]):
                    best = list(x[i])
                if sum(x[i][:-1]) > sum(own[i][:-1]):
                    own[i] = list(x[i])
        return seen

    def test_inertia_falls_as_published(self):
        assert [round(inertia(cycle, 8), 3) for cycle in (0, 1, 7)] == [0.6, 0.575, 0.425]

    def test_particles_spread_with_their_number(self):
        centre = np.full(LAYERS, 5)
        x = population(centre, DENSE, particles=10, rng=np.random.default_rng(0))
        assert x[0].tolist() == centre.tolist()
        for i in range(10):
            assert set(x[i].tolist()) <= {max(1, 5 - i), 5, 5 + i}
        assert x.min() == 1


class TestCleanSwarm:
    def test_the_update_is_the_textbooks(self):
        rng = np.random.default_rng(0)
        x, v = np.full((2, 3), 10), np.array([[0.5, -1.0, 2.0], [1.0, 1.0, -2.0]])
        own, best = x + 1, np.array([20, 9, 10])
        found, velocity = clean_move(x, v, own_best=own, best=best, dense=np.full(3, 11), inertia=0.5, rng=rng)
        rng = np.random.default_rng(0)
        r1, r2 = rng.random((2, 3)), rng.random((2, 3))
        for i in range(2):
            for j in range(3):
                step = 0.729 * (0.5 * v[i, j] + 2 * r1[i, j] * (own[i, j] - 10) + 2 * r2[i, j] * (best[j] - 10))
                assert velocity[i, j] == pytest.approx(min(2, max(-2, step)))
                assert found[i, j] == min(11, max(1, round(10 + velocity[i, j])))

    def test_every_layer_moves_and_the_optimum_is_found(self):
        target = np.arange(20, 20 + LAYERS)

        def fitness(widths):
            return -float(np.abs(widths - target).sum())

        def project(wished):
            return np.clip(np.rint(wished), 1, DENSE).astype(np.int64)

        options = {"particles": 10, "cycles": 40, "rng": np.random.default_rng(0)}
        clean = clean_swarm(np.full(LAYERS, 25), DENSE, fitness, project, **options)
        assert clean.fitness > 0.3 * clean.start
        # The last layer is never moved in the published swarm, only spread at the start.
        published = published_swarm(np.full(LAYERS, 25), DENSE, fitness, **options)
        assert clean.fitness > published.fitness

    def test_every_particle_is_projected(self):
        seen = []

        def project(wished):
            return np.full(wished.shape, 7)

        clean_swarm(
            np.full(3, 5), np.full(3, 9), lambda x: float(len(seen.append(x.tolist()) or seen)), project,
            particles=4, cycles=2, rng=np.random.default_rng(0),
        )  # fmt: skip
        assert seen == [[7, 7, 7]] * 12


class TestAsPublished:
    def test_the_budget_is_not_looked_at_and_streams_stay_whole(self):
        method = Acp(as_published=True, particles=2, cycles=1, fitness_epochs=0.5, min_samples=2, eps=0.05)
        found = [method.prune(small_subject(budget=text, internal=False)) for text in ("40%flops", "90%flops")]
        assert found[0].kept.structure == found[1].kept.structure
        assert found[0].fresh_norms
        assert found[0].facts["evaluations"] == 4
        for group, index in zip(small_subject().network.groups, found[0].kept.indices, strict=True):
            if group.coupled:
                assert len(index) == group.width

    def test_a_structure_is_trained_from_fresh_norms_on_training_images_alone(self, monkeypatch):
        calls = []

        def trained(model, images, indices, recipe, **options):
            norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
            calls.append((indices, recipe, all(bool((norm.weight == 1).all()) for norm in norms)))

        monkeypatch.setattr("autoprune.methods.fitness.train", trained)
        subject = small_subject()
        Acp(as_published=True, particles=2, cycles=1).prune(subject)
        assert len(calls) == 4
        for indices, recipe, fresh in calls:
            assert indices is subject.training
            assert fresh
            assert (recipe.epochs, recipe.learning_rate, recipe.batch_size) == (3.0, 0.1, 64)
            assert (recipe.weight_decay, recipe.momentum, recipe.schedule) == (1e-4, 0.9, "constant")


def test_options_are_read_from_texts_and_checked():
    assert make_method("acp", {"swarm": "true", "eps": "0.03"}) == Acp(swarm=True, eps=0.03)
    with pytest.raises(ConfigError, match=r"eps 3.0 of acp is a cosine distance"):
        make_method("acp", {"eps": "3"})
    with pytest.raises(ConfigError, match="particles 0 of acp must be at least 1"):
        Acp(particles=0)
