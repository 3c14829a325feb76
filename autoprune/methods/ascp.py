"""ASCP: asymptotic soft cluster pruning. Similar filters are made equal again and again while the network trains.

Of the paper (2022) only the abstract could be had; every formula here is ours, on SFP/ASFP (schedules), C-SGD
(clusters, channel addition) and CUP (one height through the merge trees of all layers).

Notation:
    N   channels of a group; k_t its clusters at time t
    P_t share of the channels that is removed at t; s the share of the final removal that the schedule asks for
    c   cluster; A (N, N) the matrix that replaces each channel by its cluster's mean or medoid
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.cost import FloatArray, IntArray
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.errors import ConfigError
from autoprune.methods.allocation import require_choice
from autoprune.methods.base import Pruned, Subject
from autoprune.methods.channel_features import group_features, silence
from autoprune.methods.clusters import capped, k_means, medoids, representatives, tree
from autoprune.methods.schedules import removed_share, require_schedule, space_at
from autoprune.methods.softly import (
    EditingHook,
    GroupAxes,
    Mask,
    clear_momentum,
    edit_count,
    group_axes,
    largest_difference,
    mix_channels,
    refuse_published,
    steps_of,
    train_with,
    training_recipe,
)
from autoprune.models.merging import addition_inputs, recalibrate
from autoprune.models.network import TracedNetwork
from autoprune.models.surgery import Kept, cut
from autoprune.strategies.heuristics import bisected

RATES = ("uniform", "adaptive")
LINKAGES = ("average", "ward")
CENTRES = ("mean", "medoid")
#: Channels whose folded filter and bias have a smaller norm are dead (guideline ii).
_DEAD = 1e-6
#: No cluster has more than so many times N / k members (guideline iv).
_CAP = 4.0
#: Reconstructed and merged network may differ by so much in a logit, relative to the largest logit if that exceeds 1.
EXACT = 1e-4
_CHECKED = 64


@dataclass(frozen=True)
class Ascp:
    """Soft clustering while training, then exact removal by channel addition.

    ASCP (2022). Known from its abstract: clusters of similar filters are reconstructed to be identical, keep training,
    a decay schedule sets the rate, identical filters leave by channel addition. [OURS]: everything else. Guidelines:
    (i) clusters stay within a group; (ii) dead channels are one cluster, mapped to zero; (iii) a group that a layer
    reading the image produces loses at most half the share that uniform widths would; (iv) a cluster has at most
    4 N / k members; (v) no group falls below 5 % on its own. The budget has the last word on (iii) and (v).
    Groups with several producers are clustered on the features of all of them, and are made equal in all of them.
    Where a consumer cannot add (grouped, transposed or reused layers) the weakest channels are mapped to zero instead
    of clustered, which slicing removes exactly, too.

    Attributes:
        as_published: refused; the paper's constants could not be had.
        rate: `adaptive` (merge trees of all groups cut at one height) or `uniform` (k-means, one rate for all).
        schedule: how the budget shrinks: const, linear, poly, exp (ASFP's), cosine.
        linkage: of the trees: `average` or `ward`.
        centre: what members become: the `mean` of the cluster or its `medoid`.
        edits_per_epoch: how often an epoch channels are clustered and reconstructed; at least 8 times a training.
        freeze: last share of the training in which clusters no longer change.
        distillation: share of the dense network's divergence in the loss ([OURS]; 0 trains on labels alone).
        learning_rate: at its peak; 0 for that of finetuning.
        batch_size: images per step.
    """

    source: ClassVar[str] = (
        "ASCP 2022, abstract only: the algorithm is ours [OURS], on SFP/ASFP and C-SGD; nothing of it verified"
    )
    trains: ClassVar[bool] = True

    as_published: bool = False
    rate: str = "adaptive"
    schedule: str = "exp"
    linkage: str = "average"
    centre: str = "mean"
    edits_per_epoch: float = 1.0
    freeze: float = 0.1
    distillation: float = 0.9
    learning_rate: float = 0.0
    batch_size: int = 128

    def __post_init__(self) -> None:
        require_choice(self.rate, RATES, what="The option 'rate' of Ascp")
        require_choice(self.linkage, LINKAGES, what="The option 'linkage' of Ascp")
        require_choice(self.centre, CENTRES, what="The option 'centre' of Ascp")
        require_schedule(self.schedule)
        if not 0 <= self.freeze < 1:
            raise ConfigError(f"The option 'freeze' of Ascp is {self.freeze!r}. Write a share in [0, 1).")

    def prune(self, subject: Subject) -> Pruned:
        """Returns the trained network whose dropped channels equal kept ones.

        Raises:
            ConfigError: it is asked to run as published.
            DivergenceError: the training diverged.
        """
        refuse_published("ASCP", self.as_published)
        model = copy.deepcopy(subject.model)
        recipe = training_recipe(
            subject.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            distillation=self.distillation,
        )
        hook = SoftClusters(
            subject.network,
            subject.space,
            self,
            steps=steps_of(subject, recipe),
            edits=edit_count(subject.epochs, self.edits_per_epoch),
        )
        facts: dict[str, float | int | str] = {}
        if subject.epochs > 0:
            facts.update(train_with(subject, model, hook, recipe, distil=self.distillation > 0))
        hook.finish(model)
        # A mean filter varies less than its members, and their statistics were averaged: fit them. Equal channels get
        # equal statistics, so the merge stays exact.
        recalibrate(model, subject.images)
        kept, clusters = hook.kept, hook.clusters
        images = subject.images[:_CHECKED]
        merged = cut(model, subject.network, kept, inputs=addition_inputs(subject.network, kept, clusters))
        error = largest_difference(model, merged, images)
        facts.update(edits=hook.edited, merge_error=error)
        return Pruned(
            kept=kept, model=model, clusters=clusters, exact=error < EXACT * _largest_logit(model, images), facts=facts
        )


def _largest_logit(model: nn.Module, images: Tensor) -> float:
    from autoprune.models.verify import outputs

    with torch.no_grad():
        return max(1.0, *(float(item.abs().max()) for item in outputs(model, images)))


class SoftClusters(EditingHook):
    """Clusters and reconstructs a network while it trains.

    The schedule ends where clusters freeze, so that the frozen ones are those of the exact budget; `finish` re-imposes
    them once more. Members drift apart within a step (their consumers differ), hence every edit reconstructs.
    """

    def __init__(self, network: TracedNetwork, space: SearchSpace, options: Ascp, *, steps: int, edits: int) -> None:
        """Plans the edits.

        Args:
            network: the trace of the network that will be trained.
            space: legal structures; the training ends at its budget.
            options: of the method.
            steps: optimiser steps of the training.
            edits: how often to reconstruct.
        """
        super().__init__(steps=steps, edits=edits)
        self._network = network
        self._space = space
        self._options = options
        self._groups = group_axes(network)
        self._labels: list[IntArray] | None = None
        self._sources: list[IntArray] = []
        self._silent: list[Mask] = []
        self._settled = False

    @property
    def clusters(self) -> tuple[IntArray, ...]:
        """Per group the (N,) representative of every channel: the first member of its cluster."""
        assert self._labels is not None, "no clustering yet"
        return tuple(representatives(labels) for labels in self._labels)

    @property
    def kept(self) -> Kept:
        """One representative a cluster."""
        return Kept(tuple(np.unique(item) for item in self.clusters))

    def edit(self, model: nn.Module, progress: float) -> None:
        """Clusters anew, unless clusters are frozen, and reconstructs."""
        if not self._settled:
            time = min(1.0, progress / (1 - self._options.freeze))
            self._cluster(model, removed_share(self._options.schedule, time))
            self._settled = time >= 1
        self._reconstruct(model, self.optimiser)

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        """Brings the trained network onto the exact budget and makes members of clusters equal."""
        if not self._settled:
            self._cluster(model, 1.0)
            self._settled = True
        self._reconstruct(model, None)

    def state_dict(self) -> dict[str, Any]:
        """Returns the clusters and how far the training has come."""
        labels = None if self._labels is None else [torch.from_numpy(item) for item in self._labels]
        return {
            **super().state_dict(),
            "settled": self._settled,
            "labels": labels,
            "sources": [torch.from_numpy(item) for item in self._sources],
            "silent": [torch.from_numpy(item) for item in self._silent],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from there."""
        super().load_state_dict(state)
        self._settled = bool(state["settled"])
        self._labels = None if state["labels"] is None else [item.cpu().numpy().copy() for item in state["labels"]]
        self._sources = [item.cpu().numpy().copy() for item in state["sources"]]
        self._silent = [item.cpu().numpy().copy() for item in state["silent"]]

    def _cluster(self, model: nn.Module, removed: float) -> None:
        """Finds the clusters of the budget at which the share `removed` of the final removal is done."""
        features = [group_features(model, group) for group in self._groups]
        structure = self._widths(features, space_at(self._space, removed))
        previous = self._labels or [None] * len(features)  # type: ignore[list-item]
        self._labels, self._sources, self._silent = [], [], []
        for group, x, width, old in zip(self._groups, features, structure, previous, strict=True):
            labels, silent = self._grouped(group, x, width, old)
            self._labels.append(labels)
            self._silent.append(silent)
            self._sources.append(medoids(x, labels) if self._options.centre == "medoid" else labels)

    def _widths(self, features: list[FloatArray], space: SearchSpace) -> Structure:
        dense = np.asarray(space.dense.widths, dtype=np.float64)
        stem = np.array([group.reads_image for group in self._groups])

        def spared(widths: FloatArray, ratio: float) -> FloatArray:
            return np.where(stem, np.maximum(widths, dense * (1 - (1 - ratio) / 2)), widths)

        if self._options.rate == "uniform":
            return bisected(space, lambda ratio: spared(dense * ratio, ratio))
        heights = [tree(x, linkage=self._options.linkage).heights for x in features]
        highest = max((float(row[-1]) for row in heights if len(row)), default=1.0)
        ratio = float(np.mean(np.asarray(space.uniform().widths) / dense))

        def widths_of(knob: float) -> FloatArray:
            height = (1 - knob) * highest
            return spared(np.array([1.0 + np.count_nonzero(row > height) for row in heights]), ratio)

        return bisected(space, widths_of)

    def _grouped(self, group: GroupAxes, x: FloatArray, width: int, previous: IntArray | None) -> tuple[IntArray, Mask]:
        """Returns the labels of `width` clusters and the channels that are mapped to zero."""
        silent = np.linalg.norm(x, axis=1) < _DEAD
        if not group.addable and width < group.width:
            silent = np.zeros(group.width, dtype=bool)
            silent[np.argsort(np.linalg.norm(x, axis=1), kind="stable")[: group.width - width + 1]] = True
        live = np.flatnonzero(~silent)
        if width == group.width or len(live) < width:
            # Dead channels that the budget lets stay are left alone.
            silent = np.zeros(group.width, dtype=bool) if width == group.width else silent
            return _with_singles(silent, width), silent
        if len(live) == group.width:
            return self._split(x, width, previous), silent
        labels = np.full(group.width, width - 1, dtype=np.int64)
        if width > 1:
            labels[live] = self._split(x[live], width - 1, None if previous is None else previous[live])
        else:
            silent = np.zeros(group.width, dtype=bool)
        return labels, silent

    def _split(self, x: FloatArray, count: int, previous: IntArray | None) -> IntArray:
        if self._options.rate == "uniform":
            labels = k_means(x, count, previous=previous)
        else:
            labels = tree(x, linkage=self._options.linkage).labels(count)
        return capped(x, labels, largest=math.ceil(_CAP * len(x) / count))

    def _reconstruct(self, model: nn.Module, optimiser: torch.optim.Optimizer | None) -> None:
        assert self._labels is not None
        for group, labels, sources, silent in zip(self._groups, self._labels, self._sources, self._silent, strict=True):
            if len(np.unique(labels)) < group.width:
                medoid = self._options.centre == "medoid"
                matrix = copying_matrix(sources) if medoid else averaging_matrix(labels)
                if group.addable:
                    mix_channels(model, group, matrix, optimiser=optimiser)
                if silent.any():
                    silence(model, group, silent)
                    clear_momentum(model, group, silent, optimiser)


def _with_singles(silent: Mask, width: int) -> IntArray:
    """Returns labels of `width` clusters: every live channel alone, the dead ones sharing what clusters are left."""
    live = int(np.count_nonzero(~silent))
    labels = np.empty(len(silent), dtype=np.int64)
    labels[~silent] = np.arange(live)
    labels[silent] = np.minimum(live + np.arange(len(silent) - live), width - 1)
    return labels


def averaging_matrix(labels: IntArray) -> Tensor:
    """Returns A with 1 / |c| between members of a cluster c, (N, N) float64."""
    same = torch.from_numpy(labels[:, None] == labels[None]).double()
    return same / same.sum(1, keepdim=True)


def copying_matrix(sources: IntArray) -> Tensor:
    """Returns A that replaces channel i by channel `sources[i]`, (N, N) float64."""
    return torch.eye(len(sources), dtype=torch.float64)[torch.from_numpy(sources)]
