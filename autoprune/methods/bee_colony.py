"""ABCPruner: an artificial bee colony over layer widths in tenths.

Notation:
    h   (n, D)  sources: tenths of the dense widths of D layers, integers in [1, 9]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from autoprune.core.cost import IntArray
from autoprune.core.seeds import generator
from autoprune.methods.base import Pruned, Subject
from autoprune.methods.blocks import published_groups
from autoprune.methods.fitness import HoldoutFitness, TrainedFitness, searched
from autoprune.methods.options import require_at_least
from autoprune.methods.swarm import Fitness, Flight
from autoprune.models.reduction.selection import keep_best
from autoprune.training.recipe import Recipe

#: `max_preserve` of the published code: no layer stays dense.
_MOST = 9
#: Moves without gain after which a source is given up (`food_limit`).
_LIMIT = 5
#: Layers that one move changes.
_MOVED = 2

#: Returns the next source of a bee: (D,) its source, (D,) another's.
Move = Callable[[IntArray, IntArray, np.random.Generator], IntArray]


@dataclass(frozen=True, slots=False)
class BeeColony:
    """Search of layer widths by artificial bees (ABCPruner's code).

    Within a budget every source is projected onto it, channels are chosen by elimination, and a structure is scored
    without training, on hold-out images after a least-squares merge [OURS].

    As published: no budget, so that only the tenths bound the widths; random filters, a fitness of two epochs'
    training, and the last layer never moved (the off-by-one that ACP inherited, A1). The authors' fitness is the test
    accuracy; the hold-out takes its place. Only convolutions inside blocks are cut. Unverified: the optimiser of the
    fitness (here SGD at the README's finetuning rate 0.01, batch 256, weight decay 5e-4), fresh norms, and that filters
    are drawn without the last.

    Attributes:
        as_published: whether the budget is not looked at.
        sources: places of food.
        cycles: of employed bees, onlookers and at most one scout.
        fitness_images: hold-out images that score a structure within a budget.
        fitness_epochs: of training before a structure is scored, as published.
    """

    source: ClassVar[str] = "ABCPruner, after the authors' code; budget and fitness without training are [OURS]"
    trains: ClassVar[bool] = False
    as_published: bool = False
    sources: int = 10
    cycles: int = 10
    fitness_images: int = 1000
    fitness_epochs: float = 2.0

    def __post_init__(self) -> None:
        require_at_least("abc", 2, sources=self.sources)
        require_at_least("abc", 1, fitness_images=self.fitness_images)
        require_at_least("abc", 0, cycles=self.cycles, fitness_epochs=self.fitness_epochs)

    def prune(self, subject: Subject) -> Pruned:
        """Returns the channels of the best structure that the bees found."""
        dense = np.array(subject.network.dense.widths)
        rng = generator(subject.seed, "abc")
        total = self.sources * (2 * self.cycles + 1) + self.cycles
        if self.as_published:
            inside = published_groups(subject.network)
            recipe = Recipe(self.fitness_epochs, 0.01, batch_size=256, weight_decay=5e-4, schedule="constant")
            trained = TrainedFitness(subject, inside, recipe, total=total)
            flight = forage(
                lambda tenths: trained(np.maximum(1, dense[list(inside)] * tenths // 10)),
                len(inside),
                sources=self.sources,
                cycles=self.cycles,
                move=published_move,
                rng=rng,
            )
            facts = searched(flight, trained.evaluations)
            return Pruned(trained.kept, subject.model, fresh_norms=True, facts=facts)

        def widths_of(tenths: IntArray) -> IntArray:
            return np.array(subject.space.project((dense * tenths / 10)[None])[0].widths)

        fitness = HoldoutFitness(
            subject,
            lambda widths: keep_best(subject.rankings, widths.tolist()),
            images=self.fitness_images,
            total=total,
        )
        flight = forage(
            lambda tenths: fitness(widths_of(tenths)),
            len(dense),
            sources=self.sources,
            cycles=self.cycles,
            move=clean_move,
            rng=rng,
        )
        kept = keep_best(subject.rankings, widths_of(flight.best).tolist())
        return Pruned(kept, subject.model, facts=searched(flight, fitness.evaluations))


def published_move(h: IntArray, other: IntArray, rng: np.random.Generator) -> IntArray:
    """Returns a source with two coordinates at `trunc(h + U(-1, 1) (h - other))`; the last is never drawn (A1)."""
    return _moved(h, other, rng, upto=max(1, len(h) - 1))


def clean_move(h: IntArray, other: IntArray, rng: np.random.Generator) -> IntArray:
    """Returns the same with every coordinate in the draw."""
    return _moved(h, other, rng, upto=len(h))


def _moved(h: IntArray, other: IntArray, rng: np.random.Generator, *, upto: int) -> IntArray:
    drawn = rng.choice(upto, min(_MOVED, upto), replace=False)
    found = h.copy()
    step = rng.uniform(-1.0, 1.0, len(drawn)) * (h - other)[drawn]
    found[drawn] = np.clip(np.trunc(h[drawn] + step), 1, _MOST)
    return found


def forage(fitness: Fitness, layers: int, *, sources: int, cycles: int, move: Move, rng: np.random.Generator) -> Flight:
    """Returns the best source that a colony finds, in tenths.

    Every source is moved once by its own bee and, with the probability `0.9 fit / max fit + 0.1`, by onlookers until
    there have been as many as sources; a move counts where it gains. The source that has longest gained nothing is
    drawn anew, once a cycle, if that is more than 5 moves ago.
    """
    food = rng.integers(1, _MOST + 1, (sources, layers))
    scores = np.array([fitness(row) for row in food])
    stale = np.zeros(sources, dtype=np.int64)
    start, leader = float(scores[0]), int(scores.argmax())
    best, best_score = food[leader].copy(), float(scores[leader])

    def visit(i: int) -> None:
        other = int((i + rng.integers(1, sources)) % sources)
        moved = move(food[i], food[other], rng)
        score = fitness(moved)
        if score > scores[i]:
            food[i], scores[i], stale[i] = moved, score, 0
        else:
            stale[i] += 1

    for _ in range(cycles):
        for i in range(sources):
            visit(i)
        onlookers, i = 0, 0
        chances = 0.9 * scores / max(float(scores.max()), 1e-12) + 0.1
        while onlookers < sources:
            if rng.random() < chances[i]:
                visit(i)
                onlookers += 1
            i = (i + 1) % sources
        # Remembered before the scout, who may give up the best source.
        leader = int(scores.argmax())
        if scores[leader] > best_score:
            best, best_score = food[leader].copy(), float(scores[leader])
        oldest = int(stale.argmax())
        if stale[oldest] > _LIMIT:
            food[oldest] = rng.integers(1, _MOST + 1, layers)
            scores[oldest], stale[oldest] = fitness(food[oldest]), 0
    leader = int(scores.argmax())
    if scores[leader] > best_score:
        best, best_score = food[leader].copy(), float(scores[leader])
    return Flight(best, best_score, start)
