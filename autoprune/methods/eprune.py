"""EPruner: the filters that others follow stay, found by passing messages between filters; no data are needed.

Notation:
    W   (N, d)  flattened filters of a group, those of several producers side by side
    S   (N, N)  similarity: minus the squared Euclidean distance of rows of W
    p   (N,)    preference: beta times the column median of S, its zero diagonal included
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from autoprune.core.cost import FloatArray, IntArray
from autoprune.core.structure import Structure
from autoprune.errors import ConfigError
from autoprune.methods.base import Pruned, Subject
from autoprune.methods.blocks import published_groups
from autoprune.methods.filters import producer_filters
from autoprune.models.cutting.surgery import Kept
from autoprune.models.network import LayerKind, TracedNetwork
from autoprune.models.reduction.similarity import nearest_kept, squared_distances, unit_rows
from autoprune.strategies.clustering import BETAS, affinity_exemplars, bisected_knob
from autoprune.strategies.tables import within

#: `--preference_beta` where it is not given.
_DEFAULT_BETA = 0.75


@dataclass(frozen=True, slots=True)
class PublishedBetas:
    """The constants of one network of the paper.

    Attributes:
        name: of the network and its data.
        beta: of the README's command for it.
        late: number of the first block (VGG: convolution), from 0, that has a constant of its own instead.
        late_beta: that constant; it is written into the code.
        bottleneck: whether a block holds two prunable convolutions; the first of them then ignores `late_beta`.
        inside: convolutions that are cut, where neither blocks nor convolutions say how many.
    """

    name: str
    beta: float
    late: int = 1_000
    late_beta: float = 0.0
    bottleneck: bool = False
    inside: int = 0

    def of(self, position: int, beta: float) -> float:
        """Returns the beta of the `position`-th prunable convolution when `beta` is asked for."""
        block, second = divmod(position, 2) if self.bottleneck else (position, 1)
        if block < self.late:
            return beta
        # The released code gives the first convolution of a bottleneck its own beta in one case only.
        first_too = self.name.startswith("ResNet-50") and beta == 0.70
        return self.late_beta if second or first_too else beta


_CIFAR, _IMAGENET = " on CIFAR-10", " on ImageNet"
#: {(residual blocks, convolutions): constants}; CIFAR ResNets with shortcuts of option A or B. Of GoogLeNet three
#: convolutions of each inception module are cut. Nothing was published for any other network.
PUBLISHED = {
    (0, 13): PublishedBetas("VGG-16" + _CIFAR, 0.73, 8, 0.92),
    (0, 64): PublishedBetas("GoogLeNet" + _CIFAR, 0.65, inside=27),
    (27, 55): PublishedBetas("ResNet-56" + _CIFAR, 0.76),
    (27, 57): PublishedBetas("ResNet-56" + _CIFAR, 0.76),
    (54, 109): PublishedBetas("ResNet-110" + _CIFAR, 0.60),
    (54, 111): PublishedBetas("ResNet-110" + _CIFAR, 0.60),
    (8, 20): PublishedBetas("ResNet-18" + _IMAGENET, 0.73, 6, 0.86),
    (16, 36): PublishedBetas("ResNet-34" + _IMAGENET, 0.75, 14, 0.92),
    (16, 53): PublishedBetas("ResNet-50" + _IMAGENET, 0.73, 13, 0.85, bottleneck=True),
    (33, 104): PublishedBetas("ResNet-101" + _IMAGENET, 0.67, 28, 0.92, bottleneck=True),
    (50, 155): PublishedBetas("ResNet-152" + _IMAGENET, 0.63, 45, 0.92, bottleneck=True),
}


@dataclass(frozen=True, slots=False)
class EPrune:
    """Affinity propagation on raw filters; its exemplars stay (EPruner, arXiv 2101.07985, and the authors' code).

    Within a budget, one beta for all groups is bisected: a published beta does not transfer to another checkpoint,
    because the spread of filter norms decides how many exemplars there are. Between two steps of beta
    the widths are interpolated, and where a group's width is not its number of exemplars, the greedy order of
    propagation's own objective decides (`net_similarity_order`). Norms are inherited. Groups with several producers
    cluster the filters of all of them side by side [OURS].

    As published, the constants of the recognised network hold, or 0.75 for any other, which `facts["betas"]` says, and
    fresh norms follow. Only convolutions inside blocks are cut (VGG: all), whatever the scope. Hidden in the code and
    reproduced: VGG-16's last five convolutions and the late blocks of ImageNet ResNets have a beta of their own, which
    `beta` does not change; bottlenecks' first convolutions mostly ignore it. Not reproduced: fresh convolution biases
    and classifier in VGG-16, and that ResNets get a fresh norm in cut layers only; identical filters and propagation
    without exemplars are guarded against in either mode. The authors chose checkpoints by test accuracy.

    Attributes:
        as_published: whether beta is fixed and the budget not looked at.
        beta: larger keeps fewer; 0 for the published constant, or for bisection. Within a budget it sets the
            proportions of the widths, which are scaled to the budget.
        normalised: whether filters are divided by their norms first [OURS].
        by_norm: whether, within a budget, exemplars give the widths only and the channels of largest consumer norm stay
            [OURS]. ResNet-20-B at half the FLOPs, least squares, no finetuning, 600 hold-out images: 64.5 % by norm,
            40.0 % with exemplars; normalised 71.0 and 56.8 %.
    """

    source: ClassVar[str] = (
        "EPruner (arXiv 2101.07985, TNNLS 2022), after the authors' code; bisected beta, coupled groups and normalised "
        "filters are [OURS]"
    )
    trains: ClassVar[bool] = False
    as_published: bool = False
    beta: float = 0.0
    normalised: bool = False
    by_norm: bool = False

    def __post_init__(self) -> None:
        # Written so that NaN fails, too.
        if not 0 <= self.beta < np.inf:
            raise ConfigError(f"beta {self.beta!r} of eprune must be above 0, or 0 to have it chosen.")

    def prune(self, subject: Subject) -> Pruned:
        """Returns exemplars, and for every channel the kept one that is nearest."""
        network = subject.network
        filters = producer_filters(subject.model, network, range(len(network.groups)))
        fits = _Fits([similarity(rows, normalised=self.normalised) for rows in filters])
        if self.as_published:
            return self._published(subject, fits)
        if self.beta > 0:
            counts = [float(len(fits.exemplars(group, self.beta))) for group in range(len(network.groups))]
            structure, beta = subject.space.project(np.array([counts]))[0], self.beta
        else:
            structure, beta = _bisected(subject, fits)
        found = [fits.exemplars(group, beta) for group in range(len(network.groups))]
        if self.by_norm:
            chosen = [ranking.order[:width] for ranking, width in zip(subject.rankings, structure, strict=True)]
        else:
            triples = zip(fits.similarities, found, structure, strict=True)
            chosen = [net_similarity_order(S, first, width) for S, first, width in triples]
        return self._pruned(
            subject, fits, chosen, {"beta": round(beta, 4), "exemplars": sum(len(item) for item in found)}
        )

    def _published(self, subject: Subject, fits: _Fits) -> Pruned:
        network = subject.network
        known = published_betas(network)
        wanted = self.beta or (known.beta if known else _DEFAULT_BETA)
        chosen: list[IntArray] = [np.arange(group.width) for group in network.groups]
        inside = published_groups(network)
        for position, group in enumerate(inside):
            chosen[group] = fits.exemplars(group, known.of(position, wanted) if known else wanted)
            subject.progress(position + 1, len(inside))
        betas = known.name if known else f"no published network has these layers: {wanted:g} throughout"
        return self._pruned(subject, fits, chosen, {"beta": wanted, "betas": betas})

    def _pruned(
        self, subject: Subject, fits: _Fits, chosen: Sequence[IntArray], facts: dict[str, float | int | str]
    ) -> Pruned:
        indices = tuple(np.sort(channels) for channels in chosen)
        clusters = tuple(nearest_kept(-S, index) for S, index in zip(fits.similarities, indices, strict=True))
        return Pruned(Kept(indices), subject.model, clusters, fresh_norms=self.as_published, facts=facts)


class _Fits:
    """Similarities of all groups and the exemplars found so far."""

    def __init__(self, similarities: Sequence[FloatArray]) -> None:
        self.similarities = tuple(similarities)
        self._found: dict[tuple[int, float], IntArray] = {}

    def exemplars(self, group: int, beta: float) -> IntArray:
        """Returns the exemplars of a group."""
        if (group, beta) not in self._found:
            self._found[group, beta] = affinity_exemplars(self.similarities[group], beta)
        return self._found[group, beta]


def _bisected(subject: Subject, fits: _Fits) -> tuple[Structure, float]:
    """Returns the structure of the least beta within the budget, and the step of beta nearest to it.

    The step is searched before the place between two steps: that takes half the fits of bisecting both at once.
    """
    groups = range(len(fits.similarities))

    def counts(step: int) -> FloatArray:
        return np.array([len(fits.exemplars(group, float(BETAS[step]))) for group in groups], dtype=np.float64)

    over, fine, rounds = 0, len(BETAS) - 1, 0
    while fine - over > 1:
        middle = (over + fine) // 2
        over, fine = (over, middle) if within(subject.space, counts(middle)) else (middle, fine)
        rounds += 1
        subject.progress(rounds, np.log2(len(BETAS)))
    structure, share = bisected_knob(
        subject.space, lambda knob: np.asarray(knob * counts(over) + (1 - knob) * counts(fine), dtype=np.float64)
    )
    return structure, float(BETAS[over if share > 0.5 else fine])


def published_betas(network: TracedNetwork) -> PublishedBetas | None:
    """Returns the paper's constants for a network of so many residual blocks and convolutions, None if it has none."""
    convolutions = sum(call.kind is LayerKind.CONV for call in network.calls)
    blocks = len({call.target for call in network.calls if call.joins})
    known = PUBLISHED.get((blocks, convolutions))
    per_block = 2 if known and known.bottleneck else 1
    # A plain network's convolutions are counted themselves; a group may be missing because it was frozen.
    expected = (known.inside if known else 0) or (blocks * per_block if blocks else convolutions)
    return known if known and len(published_groups(network)) == expected else None


def similarity(rows: FloatArray, *, normalised: bool = False) -> FloatArray:
    """Returns (N, N) minus the squared Euclidean distances of (N, d) rows, divided by their norms if `normalised`."""
    return -squared_distances(unit_rows(rows) if normalised else rows)


def net_similarity_order(S: FloatArray, exemplars: IntArray, width: int) -> IntArray:
    """Returns (width,) distinct channels, exemplars first [OURS].

    Affinity propagation maximises the net similarity `sum_i max_{k kept} S(i, k)`; each next channel is the one that
    raises it most. So a width below the number of exemplars keeps those that stand for most, and a width above it
    opens the clusters that are represented worst. Taking the channel farthest from all kept ones instead, which may be
    an outlier that stands for itself alone, measures about the same: ResNet-20-B at 50 and 70 % of the FLOPs, raw and
    normalised, 600 hold-out images: equal in three cases, 4 points (sliced) and 2 (least squares, a standard error)
    better in the fourth.
    """
    count = len(S)
    best = np.full(count, 2 * float(S.min()) - 1.0)
    left, first = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    first[exemplars] = True
    chosen: list[int] = []
    for step in range(width):
        candidates = np.flatnonzero(left & first if step < len(exemplars) else left)
        gains = np.maximum(S[:, candidates] - best[:, None], 0.0).sum(axis=0)
        pick = int(candidates[gains.argmax()])
        left[pick] = False
        chosen.append(pick)
        best = np.maximum(best, S[:, pick])
    return np.array(chosen, dtype=np.int64)
