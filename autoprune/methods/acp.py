"""ACP: channels whose mean feature maps point the same way are one; a swarm then moves around the structure they give.

Notation:
    M    (N, positions) outputs of a group's convolutions, before batch norm, averaged over images
    eps  cosine distance within which maps are neighbours
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from autoprune.core.cost import FloatArray, IntArray
from autoprune.core.seeds import generator
from autoprune.errors import ConfigError
from autoprune.methods.base import Pruned, Subject
from autoprune.methods.blocks import published_groups
from autoprune.methods.filters import channel_rows, producer_filters, producers
from autoprune.methods.fitness import HoldoutFitness, TrainedFitness, searched
from autoprune.methods.options import require_at_least
from autoprune.methods.swarm import clean_swarm, published_swarm
from autoprune.models.cutting.surgery import Kept
from autoprune.models.network import LayerCall, TracedNetwork
from autoprune.models.reduction.feature_maps import map_distances, mean_maps
from autoprune.models.reduction.similarity import nearest_kept
from autoprune.strategies.clustering import MIN_SAMPLES, bisected_knob, density_labels, eps_of
from autoprune.training.recipe import Recipe

#: Images that the published code averages maps over.
_IMAGES = 200
#: `epsilon` of the published code for CIFAR; the tables' values lie between 0.005 and 0.3.
_PUBLISHED_EPS = 0.007


@dataclass(frozen=True, slots=False)
class Acp:
    """DBSCAN on mean convolution outputs, then perhaps a swarm (ACP, arXiv 2101.06407, and the authors' code).

    A group keeps as many channels as there are clusters and noise points. Within a budget eps is bisected for all
    groups. The code keeps random filters; here a cluster's channel of largest l1 norm stays [OURS], and where a group's
    width is not its number of clusters, the norm decides too: representatives first. Groups with several producers
    cluster all of their maps side by side [OURS]. A map of one position has a sign and no direction, so that filters
    are clustered in its place [OURS]. With `swarm`, the clean swarm [OURS] searches around the clusters, every particle
    projected onto the budget, scored without training on hold-out images after a least-squares merge.

    As published: eps as given, the swarm with its bugs (each named in `autoprune.methods.swarm`: A1 velocities beyond
    the eighth layer frozen and the last layer never moved, A2 position before velocity and twice as far, A3 clamp one
    below the dense width, A4 the best updated inside the evaluation) and random filters without the last (A3), fresh
    norms, three epochs of training per fitness. Only convolutions inside blocks are cut. Where the authors clustered
    maps of 200 test images and selected structures by test accuracy, calibration images and the whole hold-out take
    their place. Two more departures: the three epochs' weights of the best structure are not handed on, for what is cut
    is a dense network; and SGD's momentum is Nesterov's.

    Attributes:
        as_published: whether eps is fixed and the budget not looked at.
        eps: 0 for the published 0.007, or for bisection. Within a budget it sets the proportions of the widths.
        min_samples: DBSCAN's, as published.
        swarm: whether a swarm follows within a budget; as published it always does.
        particles: as published.
        cycles: as published.
        fitness_images: hold-out images that score a structure within a budget.
        fitness_epochs: of training before a structure is scored, as published.
    """

    source: ClassVar[str] = (
        "ACP (arXiv 2101.06407, Applied Intelligence 2022), after the authors' code; bisected eps, coupled groups, "
        "choice of channels and clean swarm are [OURS]"
    )
    trains: ClassVar[bool] = False
    as_published: bool = False
    eps: float = 0.0
    min_samples: int = MIN_SAMPLES
    swarm: bool = False
    particles: int = 10
    cycles: int = 8
    fitness_images: int = 1000
    fitness_epochs: float = 3.0

    def __post_init__(self) -> None:
        # Written so that NaN fails, too.
        if not 0 <= self.eps <= 2:
            raise ConfigError(f"eps {self.eps!r} of acp is a cosine distance in (0, 2], or 0 to have it chosen.")
        require_at_least("acp", 0, fitness_epochs=self.fitness_epochs, cycles=self.cycles)
        counts = {"particles": self.particles, "fitness_images": self.fitness_images, "min_samples": self.min_samples}
        require_at_least("acp", 1, **counts)

    def prune(self, subject: Subject) -> Pruned:
        """Returns representatives of clusters of maps, and for every channel the kept one that stands for it."""
        stage = _Stage(subject, self.min_samples)
        if self.as_published:
            return self._published(subject, stage)
        if self.eps > 0:
            structure, eps = subject.space.project(stage.counts(self.eps)[None])[0], self.eps
        else:
            structure, knob = bisected_knob(subject.space, lambda knob: stage.counts(eps_of(knob)))
            eps = eps_of(knob)
        facts: dict[str, float | int | str] = {"eps": eps, "clusters": int(stage.counts(eps).sum())}
        widths = np.array(structure.widths)
        if self.swarm:
            fitness = HoldoutFitness(
                subject,
                lambda found: stage.kept(found, eps),
                images=self.fitness_images,
                total=self.particles * (self.cycles + 1),
            )
            flight = clean_swarm(
                widths,
                np.array(subject.space.dense.widths),
                fitness,
                lambda wished: np.array([one.widths for one in subject.space.project(wished)]),
                particles=self.particles,
                cycles=self.cycles,
                rng=generator(subject.seed, "acp"),
            )
            widths = flight.best
            facts |= searched(flight, fitness.evaluations)
        kept = stage.kept(widths, eps)
        return Pruned(kept, subject.model, stage.clusters(kept, eps), facts=facts)

    def _published(self, subject: Subject, stage: _Stage) -> Pruned:
        eps = self.eps or _PUBLISHED_EPS
        inside = published_groups(subject.network)
        dense = np.array(subject.network.dense.widths)
        fitness = TrainedFitness(
            subject,
            inside,
            # lr, batch, weight decay and epochs of the code's options; momentum 0.9.
            Recipe(self.fitness_epochs, 0.1, batch_size=64, momentum=0.9, weight_decay=1e-4, schedule="constant"),
            total=self.particles * (self.cycles + 1),
        )
        flight = published_swarm(
            stage.counts(eps)[list(inside)].astype(np.int64),
            dense[list(inside)],
            fitness,
            particles=self.particles,
            cycles=self.cycles,
            rng=generator(subject.seed, "acp"),
        )
        facts: dict[str, float | int | str] = {"eps": eps, **searched(flight, fitness.evaluations)}
        clusters = stage.clusters(fitness.kept, eps)
        return Pruned(fitness.kept, subject.model, clusters, fresh_norms=True, facts=facts)


class _Stage:
    """Stage 1: distances between maps, and the clusterings found so far."""

    def __init__(self, subject: Subject, min_samples: int) -> None:
        filters = producer_filters(subject.model, subject.network, range(len(subject.network.groups)))
        maps = stacked_maps(subject.model, subject.network, subject.images[:_IMAGES])
        self._distances = [map_distances(found, rows) for found, rows in zip(maps, filters, strict=True)]
        self._l1 = [np.abs(item).sum(axis=1) for item in filters]
        self._min_samples = min_samples
        self._labels: dict[float, list[IntArray]] = {}

    def labels(self, eps: float) -> list[IntArray]:
        """Returns per group the (N,) cluster numbers, noise points being clusters of their own."""
        if eps not in self._labels:
            samples = self._min_samples
            self._labels[eps] = [density_labels(item, eps, min_samples=samples) for item in self._distances]
        return self._labels[eps]

    def counts(self, eps: float) -> FloatArray:
        """Returns (G,) clusters and noise points."""
        return np.array([labels.max() + 1 for labels in self.labels(eps)], dtype=np.float64)

    def kept(self, widths: IntArray, eps: float) -> Kept:
        """Returns the first channels of every group's order: representatives, then members, larger l1 norms first."""
        labelled = zip(self.labels(eps), self._l1, widths, strict=True)
        return Kept(tuple(np.sort(cluster_order(labels, l1)[:width]) for labels, l1, width in labelled))

    def clusters(self, kept: Kept, eps: float) -> tuple[IntArray, ...]:
        """Returns per group the (N,) nearest kept channel of the same cluster, or of all where a cluster keeps none."""
        found = []
        for labels, distances, index in zip(self.labels(eps), self._distances, kept.indices, strict=True):
            # Cosine distances are at most 2: another cluster's channel is never nearer.
            found.append(nearest_kept(distances + 4.0 * (labels[:, None] != labels[None]), index))
        return tuple(found)


def cluster_order(labels: IntArray, l1: FloatArray) -> IntArray:
    """Returns (N,) channels: the largest l1 norm of each cluster, then the rest, each by falling norm [OURS]."""
    by_norm = np.argsort(-l1, kind="stable")
    _, first = np.unique(labels[by_norm], return_index=True)
    representative = np.zeros(len(labels), dtype=bool)
    representative[by_norm[first]] = True
    return np.concatenate([by_norm[representative[by_norm]], by_norm[~representative[by_norm]]]).astype(np.int64)


def stacked_maps(model: nn.Module, network: TracedNetwork, images: Tensor, *, batch: int = 50) -> list[FloatArray]:
    """Returns per group M, (N, positions): mean outputs of its producers, before batch norm, side by side.

    A group that no convolution or linear layer produces has no positions, nor has one whose layers run elsewhere on a
    batch of images than on one.
    """
    first_calls: dict[str, LayerCall] = {}
    for call in network.calls:
        first_calls.setdefault(call.weight, call)
    calls = [
        [first_calls[name] for name, _, _ in producers(network, group) if name in first_calls]
        for group in range(len(network.groups))
    ]
    maps = mean_maps(model, [call for made in calls for call in made], images, batch=batch)
    found = []
    for group, made in enumerate(calls):
        parts = [channel_rows(network, call.output, group, maps[call.call]) for call in made if call.call in maps]
        found.append(np.concatenate(parts, axis=1) if parts else np.zeros((network.groups[group].width, 0)))
    return found
