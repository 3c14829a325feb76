"""What a search can be tried on without a network, and a synthetic one: accuracy from a formula, in microseconds.

The synthetic landscape has the exact costs of a CIFAR ResNet.

The accuracy falls with the energy that each group loses, weighted by sensitivities that no profile shows, with
interactions between neighbours and the sampling noise of a hold-out. The profile describes the energy only roughly.
So heuristics are informative but wrong, as on real networks; absolute figures mean nothing.

Notation:
    e   (G,) share of its energy that each group loses at a width, in [0, 1]
    a   (G,) sensitivity of the accuracy to each group, mean 1
    d   damage of a structure: 0 when dense, about 1 for uniform widths at the budget
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from autoprune.core.budget import parse_budgets
from autoprune.core.candidate import Candidate, Evaluation, Fidelity, Ladder, Merge
from autoprune.core.cost import AxisWidth, CostModel, FloatArray, LayerTerm
from autoprune.core.profile import GroupProfile, ModelProfile
from autoprune.core.seeds import generator
from autoprune.core.space import SearchSpace
from autoprune.core.structure import PrunableGroup, Structure

#: Width and output positions of the three stages of a CIFAR ResNet.
_STAGES = ((16, 1024), (32, 256), (64, 64))
_CHANCE, _DENSE = 0.1, 0.93
#: Standard deviation of an accuracy of 0.9 over 5,000 images.
_NOISE = 0.004


class Landscape(Protocol):
    """A space with a known accuracy for every structure."""

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        ...

    @property
    def profile(self) -> ModelProfile:
        """What heuristics read of its groups."""
        ...

    @property
    def ladder(self) -> Ladder:
        """The rungs that a candidate may be evaluated at."""
        ...

    def accuracy(self, structure: Structure) -> float:
        """Returns the accuracy in [0, 1] without noise at the top rung: what a search is judged by."""
        ...

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Returns the noisy score of a candidate at its rung; the noise is a function of the structure."""
        ...


@dataclass(frozen=True, eq=False)
class SyntheticLandscape:
    """A landscape from a formula.

    Attributes:
        space: what is searched.
        profile: an imperfect description of the groups.
        ladder: one or two rungs; the last is the truth with noise, the first of two a harsher relative of it.
        errors: per group (N + 1,), the energy really lost at each width.
        sensitivities: (G,) at the top rung.
        first_sensitivities: (G,) at the first of two rungs.
        interactions: (G - 1,) of each group with the next.
        seed: of the noise.
    """

    space: SearchSpace
    profile: ModelProfile
    ladder: Ladder
    errors: tuple[FloatArray, ...]
    sensitivities: FloatArray
    first_sensitivities: FloatArray
    interactions: FloatArray
    seed: int

    def accuracy(self, structure: Structure) -> float:
        """Returns the accuracy in [0, 1] without noise at the top rung: what a search is judged by."""
        return self._accuracy(structure, self.sensitivities, steepness=0.16)

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Returns the noisy score of a candidate at its rung; the noise is a function of the structure."""
        level, structure = candidate.fidelity.level, candidate.structure
        top = level == self.ladder.top.level
        exact = self.accuracy(structure) if top else self._accuracy(structure, self.first_sensitivities, steepness=0.45)
        noise = generator(self.seed, "noise", level, *structure.widths).normal(0.0, _NOISE)
        score = float(np.clip(exact + noise, 0.0, 1.0))
        return Evaluation(candidate, score=score, accuracy=score, seconds=1.0 + 2.0 * level)

    @cached_property
    def _uniform(self) -> Structure:
        return self.space.uniform()

    def _accuracy(self, structure: Structure, sensitivities: FloatArray, *, steepness: float) -> float:
        uniform = self._damage(self._uniform, sensitivities)
        damage = self._damage(structure, sensitivities) / max(uniform, 1e-9)
        return _CHANCE + (_DENSE - _CHANCE) * float(np.exp(-steepness * damage**1.2))

    def _damage(self, structure: Structure, sensitivities: FloatArray) -> float:
        lost = np.array([row[width] for row, width in zip(self.errors, structure.widths, strict=True)])
        weighted = sensitivities * lost
        pairs = self.interactions * np.sqrt(weighted[:-1] * weighted[1:])
        return max(0.0, float(weighted.sum() + pairs.sum()))


def resnet_landscape(
    *,
    seed: int,
    blocks: int = 9,
    budget: str | Sequence[str] = "50%flops",
    rungs: int = 1,
    coupled: bool = False,
    profile_noise: float = 0.35,
) -> SyntheticLandscape:
    """Returns a landscape over the space of a CIFAR ResNet of `6 * blocks + 2` layers.

    Args:
        seed: draws spectra, sensitivities, interactions and noise.
        blocks: residual blocks per stage; 9 is ResNet-56.
        budget: as on the command line.
        rungs: 1 or 2.
        coupled: whether the stage outputs are groups too.
        profile_noise: relative error of the profile's spectra (standard deviation of the logarithm).
    """
    rng = generator(seed, "landscape", blocks, int(coupled))
    groups, cost_model = _network(blocks, coupled=coupled)
    space = SearchSpace.build(groups, cost_model, parse_budgets(budget))
    decays = np.exp(rng.normal(np.log(0.25), 0.5, len(groups)))
    errors = [_tail(group.width, decay) for group, decay in zip(groups, decays, strict=True)]
    seen = decays * np.exp(profile_noise * rng.standard_normal(len(groups)))
    profiles = [_profile(group, decay, rng) for group, decay in zip(groups, seen, strict=True)]
    sensitivities = np.exp(rng.normal(0.0, 0.8, len(groups)))
    first = sensitivities * np.exp(rng.normal(0.0, 0.3, len(groups)))
    bends = rng.uniform(0.8, 1.4, len(groups))
    return SyntheticLandscape(
        space=space,
        profile=ModelProfile(tuple(profiles)),
        ladder=simulated_ladder(rungs),
        errors=tuple(row**bend for row, bend in zip(errors, bends, strict=True)),
        sensitivities=sensitivities / sensitivities.mean(),
        first_sensitivities=first / first.mean(),
        interactions=rng.normal(0.15, 0.3, len(groups) - 1),
        seed=seed,
    )


def simulated_ladder(rungs: int) -> Ladder:
    """Returns a ladder of so many rungs without training."""
    merges = (Merge.LEAST_SQUARES, Merge.SEQUENTIAL, Merge.SEQUENTIAL)
    return Ladder(
        tuple(
            Fidelity(level, merges[level].value, merges[level], calibration_images=512, holdout_images=5000)
            for level in range(rungs)
        )
    )


def _network(blocks: int, *, coupled: bool) -> tuple[list[PrunableGroup], CostModel]:
    """Returns groups and costs: block-internal channels, and with `coupled` one stream a stage."""
    groups: list[PrunableGroup] = []
    terms: list[LayerTerm] = []
    streams: list[AxisWidth] = []
    for stage, (width, _) in enumerate(_STAGES):
        if coupled:
            streams.append(AxisWidth(0, ((len(groups), 1),)))
            groups.append(PrunableGroup(f"layer{stage + 1}.stream", width, coupled=True))
        else:
            streams.append(AxisWidth(width))
    terms.append(LayerTerm("conv1.weight", 9, _STAGES[0][1], streams[0], AxisWidth(3)))
    for stage, (width, positions) in enumerate(_STAGES):
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            inner = AxisWidth(0, ((len(groups), 1),))
            groups.append(PrunableGroup(f"{name}.conv1", width))
            entering = streams[max(0, stage - (block == 0))]
            terms.append(LayerTerm(f"{name}.conv1.weight", 9, positions, inner, entering))
            terms.append(LayerTerm(f"{name}.conv2.weight", 9, positions, streams[stage], inner))
    terms.append(LayerTerm("fc.weight", 1, 1, AxisWidth(10), streams[-1]))
    return groups, CostModel(tuple(group.width for group in groups), tuple(terms))


def _tail(width: int, decay: float) -> FloatArray:
    """Returns (N + 1,) the share of energy lost with k channels kept: 1 at 0, 0 at N."""
    spectrum = np.exp(-np.arange(width) / (decay * width))
    tail: FloatArray = 1.0 - np.append(0.0, np.cumsum(spectrum)) / spectrum.sum()
    return np.clip(tail, 0.0, 1.0)


def _profile(group: PrunableGroup, decay: float, rng: np.random.Generator) -> GroupProfile:
    """Returns statistics that fit together: filters, activations and maps of one decaying spectrum."""
    count = group.width
    spectrum = np.exp(-np.arange(count) / (decay * count))
    basis = np.linalg.qr(rng.standard_normal((count, count)))[0]
    scales = np.exp(0.3 * rng.standard_normal(count))[:, None]
    filters = scales * (basis * np.sqrt(spectrum)) + 0.02 * rng.standard_normal((count, count))
    covariance = (basis * spectrum) @ basis.T + 1e-3 * np.eye(count)
    deviations = np.sqrt(np.diag(covariance))
    folded = filters * np.exp(0.2 * rng.standard_normal(count))[:, None]
    unit = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    weights = np.abs(filters).ravel()
    error = _tail(count, decay)
    return GroupProfile(
        name=group.name,
        filter_norms=np.linalg.norm(filters, axis=1),
        consumer_norms=np.linalg.norm(folded, axis=1),
        filter_distances=_squared_distances(filters),
        folded_distances=_squared_distances(folded),
        map_distances=np.clip(1.0 - unit @ unit.T, 0.0, 2.0),
        correlation=covariance / np.outer(deviations, deviations),
        weight_quantiles=np.quantile(weights / np.sqrt(np.mean(weights**2)), np.linspace(0, 1, 1001)),
        dead_share=float(rng.integers(0, 2)) / count,
        reconstruction_error=error,
        order=np.argsort(-np.linalg.norm(filters, axis=1), kind="stable").astype(np.float64),
    )


def _squared_distances(rows: FloatArray) -> FloatArray:
    squares = (rows**2).sum(axis=1)
    distances: FloatArray = np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances
