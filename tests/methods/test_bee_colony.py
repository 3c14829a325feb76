from __future__ import annotations

import numpy as np
import pytest

from autoprune.errors import ConfigError
from autoprune.methods.bee_colony import BeeColony, clean_move, forage, published_move
from autoprune.methods.registry import make_method
from autoprune.models.reduction.selection import keep_best
from tests.methods.small_subject import small_subject


def naive_forage(fitness, layers: int, sources: int, cycles: int, rng: np.random.Generator) -> list[list[int]]:
    """The colony as the released code computes it; returns every source in the order of its evaluation."""
    seen: list[list[int]] = []

    def score(source):
        seen.append([int(h) for h in source])
        return fitness(np.array(source))

    food = rng.integers(1, 10, (sources, layers)).tolist()
    scores = [score(source) for source in food]
    misses = [0] * sources

    def visit(i):
        k = (i + int(rng.integers(1, sources))) % sources
        drawn = rng.choice(layers, 2, replace=False)
        chance = rng.uniform(-1, 1, 2)
        moved = list(food[i])
        for layer, u in zip(drawn, chance, strict=True):
            moved[layer] = min(9, max(1, int(food[i][layer] + u * (food[i][layer] - food[k][layer]))))
        gained = score(moved)
        if gained > scores[i]:
            food[i], scores[i], misses[i] = moved, gained, 0
        else:
            misses[i] += 1

    for _ in range(cycles):
        for i in range(sources):
            visit(i)
        chances = [0.9 * one / max(scores) + 0.1 for one in scores]
        visited, i = 0, 0
        while visited < sources:
            if rng.random() < chances[i]:
                visit(i)
                visited += 1
            i = (i + 1) % sources
        oldest = misses.index(max(misses))
        if misses[oldest] > 5:
            food[oldest] = rng.integers(1, 10, layers).tolist()
            scores[oldest], misses[oldest] = score(food[oldest]), 0
    return seen


class TestColony:
    def test_every_source_is_that_of_the_formulas(self):
        seen: list[list[int]] = []

        def fitness(source):
            return 1.0 / (1.0 + float(np.abs(source - 4).sum()))

        def noted(source):
            seen.append([int(h) for h in source])
            return fitness(source)

        flight = forage(noted, 5, sources=4, cycles=12, move=clean_move, rng=np.random.default_rng(0))
        assert seen == naive_forage(fitness, 5, 4, 12, np.random.default_rng(0))
        # Scouts flew: beyond the start and two visits a source and cycle.
        assert len(seen) > 4 * (1 + 2 * 12)
        assert flight.fitness == max(fitness(np.array(source)) for source in seen)
        assert flight.fitness == fitness(flight.best)

    def test_a_move_changes_two_layers_towards_or_away_from_another_source(self):
        rng = np.random.default_rng(0)
        h, other = np.full(6, 5), np.full(6, 8)
        for _ in range(100):
            moved = clean_move(h, other, rng)
            assert (moved != h).sum() <= 2
            assert moved.min() >= 2
            assert moved.max() <= 7

    def test_the_last_layer_is_moved_by_the_clean_colony_only(self):
        rng = np.random.default_rng(0)
        h, other = np.full(4, 5), np.array([9, 9, 9, 1])
        moved = {
            move: np.array([move(h, other, rng) for _ in range(200)]) != h for move in (published_move, clean_move)
        }
        assert moved[published_move].any(axis=0).tolist() == [True, True, True, False]
        assert moved[clean_move].any(axis=0).all()

    def test_no_layer_stays_dense_or_vanishes(self):
        rng = np.random.default_rng(0)
        h, other = np.array([9, 1]), np.array([1, 9])
        moved = np.array([clean_move(h, other, rng) for _ in range(200)])
        assert (moved.min(), moved.max()) == (1, 9)


class TestBudget:
    def test_the_budget_holds_and_the_best_source_is_at_least_the_first(self):
        subject = small_subject("residual with channel maps")
        method = BeeColony(sources=3, cycles=2, fitness_images=8)
        pruned = method.prune(subject)
        assert subject.space.is_legal(pruned.kept.structure)
        assert pruned.facts["fitness"] >= pruned.facts["fitness_at_start"]
        expected = keep_best(subject.rankings, pruned.kept.structure.widths)
        assert all((a == b).all() for a, b in zip(pruned.kept.indices, expected.indices, strict=True))
        assert method.prune(subject).facts == pruned.facts


class TestAsPublished:
    def test_widths_are_tenths_whatever_the_budget(self):
        method = BeeColony(as_published=True, sources=2, cycles=1, fitness_epochs=0.0)
        found = [method.prune(small_subject(budget=text)) for text in ("40%flops", "90%flops")]
        assert found[0].kept.structure == found[1].kept.structure
        assert found[0].fresh_norms
        for group, width in zip(small_subject().network.groups, found[0].kept.structure, strict=True):
            tenths = {max(1, group.width * h // 10) for h in range(1, 10)}
            assert width == group.width if group.coupled else width in tenths


def test_options_are_read_from_texts_and_checked():
    assert make_method("abc", {"cycles": "50"}) == BeeColony(cycles=50)
    with pytest.raises(ConfigError, match="sources 1 of abc must be at least 2"):
        BeeColony(sources=1)
