"""Swarms of width vectors: the one that ACP's code runs, its bugs named, and one without them. Numbers only.

Notation:
    x   (P, D)  widths of P particles over D layers, integers in [1, Cmax]
    v   (P, D)  velocities in [-2, 2] channels
    w   scalar  inertia of a cycle
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autoprune.core.cost import FloatArray, IntArray

#: Scores one particle's (D,) widths; higher is better.
Fitness = Callable[[IntArray], float]
#: Brings (P, D) real widths to legal ones within the budget.
Projection = Callable[[FloatArray], IntArray]

#: Constants of the published code: largest velocity, pull of either best, constriction (Clerc and Kennedy 2002).
LARGEST_VELOCITY = 2.0
PULL = 2.0
CONSTRICTION = 0.729
#: Coordinates that the published code moves, and whose velocities it refreshes.
MOVED = 8


@dataclass(frozen=True, eq=False)
class Flight:
    """What a swarm found.

    Attributes:
        best: (D,) widths.
        fitness: theirs.
        start: the fitness of the first particle, which is where the population is centred.
    """

    best: IntArray
    fitness: float
    start: float


def population(centre: IntArray, dense: IntArray, *, particles: int, rng: np.random.Generator) -> IntArray:
    """Returns (P, D) widths: particle i lies i channels or none from the centre in each layer, up or down (ACP 2021).

    Particle 0 is the centre itself.
    """
    signs = rng.integers(-1, 2, (particles, len(centre)))
    return np.clip(centre + signs * np.arange(particles)[:, None], 1, dense).astype(np.int64)


def inertia(cycle: int, cycles: int) -> float:
    """Returns w of a cycle counted from 0: 0.6 to 0.425 over the published 8."""
    return 0.4 + 0.5 * (cycles - cycle) / 20


def published_move(
    x: IntArray,
    v: FloatArray,
    *,
    own_best: IntArray,
    best: IntArray,
    dense: IntArray,
    inertia: float,
    rng: np.random.Generator,
) -> tuple[IntArray, FloatArray]:
    """Returns the next (D,) widths and velocities of one particle, bugs included (as in the released code of ACP).

    Draws with replacement are read literally: a layer drawn twice moves twice.
    """
    count = len(x)
    new_x, new_v = x.copy(), v.copy()
    # A1, first half: the upper end of the draw is exclusive, so the last layer is never moved.
    drawn = rng.integers(0, count - 1, MOVED) if count > 1 else np.zeros(0, dtype=np.int64)
    for layer in drawn:
        # A2: the position moves before the velocity is refreshed, and by twice the velocity.
        moved = max(1, int(new_x[layer] + 2 * v[layer]))
        # A3: the clamp writes Cmax - 1, so a moved layer is never dense again.
        new_x[layer] = max(1, min(moved, int(dense[layer]) - 1))
    # A1, second half: the first layers are refreshed, not those that moved; all others keep their first velocity.
    fresh = slice(0, min(MOVED, count))
    share = rng.random()
    pull = PULL * share * ((own_best - x)[fresh] + (best - x)[fresh])
    new_v[fresh] = np.clip(CONSTRICTION * (inertia * v[fresh] + pull), -LARGEST_VELOCITY, LARGEST_VELOCITY)
    return new_x, new_v


def clean_move(
    x: IntArray,
    v: FloatArray,
    *,
    own_best: IntArray,
    best: IntArray,
    dense: IntArray,
    inertia: float,
    rng: np.random.Generator,
) -> tuple[IntArray, FloatArray]:
    """Returns the next (P, D) widths and velocities [OURS]: the published constants on the textbook's update.

    Every layer is refreshed, then moved; either pull has its own random number per particle and layer.
    """
    own, shared = rng.random(x.shape), rng.random(x.shape)
    wanted = inertia * v + PULL * own * (own_best - x) + PULL * shared * (best - x)
    new_v = np.clip(CONSTRICTION * wanted, -LARGEST_VELOCITY, LARGEST_VELOCITY)
    return np.clip(np.rint(x + new_v), 1, dense).astype(np.int64), new_v


def published_swarm(
    centre: IntArray, dense: IntArray, fitness: Fitness, *, particles: int, cycles: int, rng: np.random.Generator
) -> Flight:
    """Returns what the published swarm finds; it evaluates `particles * (cycles + 1)` structures."""
    x = population(centre, dense, particles=particles, rng=rng)
    v = rng.uniform(-LARGEST_VELOCITY, LARGEST_VELOCITY, x.shape)
    own_fitness = np.array([fitness(row) for row in x])
    own_best, start = x.copy(), float(own_fitness[0])
    leader = int(own_fitness.argmax())
    best, best_fitness = x[leader].copy(), float(own_fitness[leader])
    for cycle in range(cycles):
        for i in range(particles):
            x[i], v[i] = published_move(
                x[i], v[i], own_best=own_best[i], best=best, dense=dense, inertia=inertia(cycle, cycles), rng=rng
            )
            found = fitness(x[i])
            # A4: the evaluation itself updates the best of all, so that the next particle of the same cycle follows it
            # already, and later comparisons with it are vain.
            if found > best_fitness:
                best, best_fitness = x[i].copy(), found
            if found > own_fitness[i]:
                own_best[i], own_fitness[i] = x[i], found
    return Flight(best, best_fitness, start)


def clean_swarm(
    centre: IntArray,
    dense: IntArray,
    fitness: Fitness,
    project: Projection,
    *,
    particles: int,
    cycles: int,
    rng: np.random.Generator,
) -> Flight:
    """Returns what the swarm without bugs finds [OURS]; every particle is projected onto the budget as it moves."""
    x = project(population(centre, dense, particles=particles, rng=rng).astype(np.float64))
    v = rng.uniform(-LARGEST_VELOCITY, LARGEST_VELOCITY, x.shape)
    own_fitness = np.array([fitness(row) for row in x])
    own_best, start = x.copy(), float(own_fitness[0])
    for cycle in range(cycles):
        best = own_best[own_fitness.argmax()]
        x, v = clean_move(x, v, own_best=own_best, best=best, dense=dense, inertia=inertia(cycle, cycles), rng=rng)
        x = project(x.astype(np.float64))
        found = np.array([fitness(row) for row in x])
        better = found > own_fitness
        own_best[better], own_fitness[better] = x[better], found[better]
    leader = int(own_fitness.argmax())
    return Flight(own_best[leader], float(own_fitness[leader]), start)
