"""ASCP: filters that resemble each other are made equal while the network trains, and added together in the end.

Of the paper (arXiv 2206.08186) only the abstract could be had: clusters of similar filters, reconstruction so that the
members of a cluster become redundant, guidelines that preserve features, training on after each reconstruction, several
decay schedules, removal by channel addition. Every formula below is [OURS], on what is known of its relatives: soft
filter pruning (SFP 2018, ASFP 2019) and centripetal SGD (C-SGD 2019), from which the removal is.

Notation:
    F   (N, d)  features of a group's channels: filters of all its layers with batch norm folded in, and folded biases
    k           clusters of a group, the width it is to have
    h           one height for the trees of all groups
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from autoprune.core.cost import FloatArray
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.errors import ConfigError
from autoprune.methods.base import Pruned, Subject
from autoprune.methods.filters import channel_rows
from autoprune.methods.options import refuse_published
from autoprune.methods.reduction import adds_exactly
from autoprune.methods.schedules import removed_share, require_schedule, space_at
from autoprune.methods.softly import (
    EditingHook,
    GroupAxes,
    edit_count,
    group_axes,
    mix_channels,
    steps_of,
    train_with,
    training_recipe,
)
from autoprune.models.cutting.folding import folded_weight
from autoprune.models.cutting.surgery import Kept, named_tensors
from autoprune.models.modules.portable import copied
from autoprune.models.network import IndexArray, TracedNetwork
from autoprune.models.reduction.calibration import to_numpy
from autoprune.models.reduction.similarity import squared_distances
from autoprune.strategies.clustering import MergeTree, bisected_knob, merge_tree

RATES = ("adaptive", "uniform")
REPRESENTATIVES = ("mean", "medoid")
#: Share of the training, at its end, in which the clusters stay as they are.
_SETTLED = 0.1
#: Guideline: no cluster holds more than this many times the mean, so that none swallows a layer.
_LARGEST_CLUSTER = 4.0
#: Channels nearer than this share of the mean distance are equal.
_EQUAL = 1e-4


@dataclass(frozen=True)
class Ascp:
    """Soft cluster pruning [OURS]: see the module.

    Guidelines: channels are clustered within their group only; dead ones, whose features are all but zero, fall into
    one cluster by themselves; a group that reads the image loses at most half the share that it would lose of uniform
    widths; no cluster of unequal channels holds more than four times the mean; no group falls below 5 %.

    Attributes:
        rates: `adaptive` (one height for the trees of all groups, bisected to the budget) or `uniform` (one share).
        schedule: how the budget falls from the dense cost: `exp`, `linear`, `poly`, `cosine` or `const`.
        representative: what the members of a cluster become: their `mean`, or the `medoid`, the member nearest to all.
        edits_per_epoch: reconstructions per epoch; at least 8 in all.
        learning_rate: at its peak; 0 for that of finetuning.
        batch_size: images per step; where no rate is given, few images are trained on in smaller ones.
        distillation: share of the dense network's divergence in the loss; 0 trains on the labels alone.
        as_published: an error: the paper's constants could not be had.
    """

    source: ClassVar[str] = "[OURS] on the abstract of ASCP (arXiv 2206.08186): no formula or constant could be had"
    trains: ClassVar[bool] = True

    rates: str = "adaptive"
    schedule: str = "exp"
    representative: str = "mean"
    edits_per_epoch: float = 1.0
    learning_rate: float = 0.0
    batch_size: int = 128
    distillation: float = 0.9
    as_published: bool = False

    def __post_init__(self) -> None:
        refuse_published("ascp", self.as_published)
        require_schedule(self.schedule)
        for value, known, name in (
            (self.rates, RATES, "rates"),
            (self.representative, REPRESENTATIVES, "representative"),
        ):
            if value not in known:
                raise ConfigError(f"Unknown {name} {value!r} of ascp. Known: {', '.join(known)}.")

    def prune(self, subject: Subject) -> Pruned:
        """Trains a copy of the network; returns it with clusters of equal channels, one of each kept."""
        recipe = training_recipe(
            subject,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            distillation=self.distillation,
        )
        groups = group_axes(subject.network)
        model = copied(subject.model)
        hook = SoftClusters(
            subject.network,
            subject.space,
            groups,
            rates=self.rates,
            schedule=self.schedule,
            representative=self.representative,
            steps=steps_of(subject, recipe),
            edits=edit_count(subject.epochs, self.edits_per_epoch),
        )
        facts: dict[str, Any] = {"rates": self.rates, "schedule": self.schedule}
        if subject.epochs > 0:
            facts.update(train_with(subject, model, hook, recipe, distil=self.distillation > 0))
        with torch.no_grad():
            labels = hook.settle(model)
        representatives = tuple(_first_members(row) for row in labels)
        kept = Kept(tuple(np.unique(row) for row in representatives))
        exact = all(group.addable for group in groups) and adds_exactly(
            model.eval(), subject.network, kept, representatives, seed=subject.seed
        )
        return Pruned(kept, model, representatives, exact=exact, facts=facts)


class SoftClusters(EditingHook):
    """Makes the members of clusters equal, more of them as the training goes on."""

    def __init__(
        self,
        network: TracedNetwork,
        space: SearchSpace,
        groups: Sequence[GroupAxes],
        *,
        rates: str,
        schedule: str,
        representative: str,
        steps: int,
        edits: int,
    ) -> None:
        """Plans the edits.

        Args:
            network: the trace.
            space: legal structures within the final budget.
            groups: where the network's groups lie.
            rates: one of `RATES`.
            schedule: of `autoprune.methods.schedules`.
            representative: one of `REPRESENTATIVES`.
            steps: optimiser steps of the whole training.
            edits: how many reconstructions.
        """
        super().__init__(steps=steps, edits=edits)
        self._network, self._space, self._groups = network, space, tuple(groups)
        self._rates, self._schedule, self._representative = rates, schedule, representative
        self._settled: list[IndexArray] | None = None

    def edit(self, model: nn.Module, progress: float) -> None:
        """Clusters for the budget of the moment and makes members equal; near the end the clusters stay."""
        if progress >= 1 - _SETTLED:
            self.settle(model)
            return
        removed = removed_share(self._schedule, progress / (1 - _SETTLED))
        features = self.features(model)
        self.reconstruct(model, self.clusters(features, space_at(self._space, removed)), features)

    def settle(self, model: nn.Module) -> list[IndexArray]:
        """Makes the members of the final clusters equal; returns per group the (N,) cluster of every channel."""
        features = self.features(model)
        if self._settled is None:
            self._settled = self.clusters(features, self._space)
        self.reconstruct(model, self._settled, features)
        return self._settled

    def state_dict(self) -> dict[str, Any]:
        """Returns how far the training has come, and the final clusters once there are any."""
        settled = None if self._settled is None else [row.tolist() for row in self._settled]
        return {**super().state_dict(), "settled": settled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from there."""
        super().load_state_dict(state)
        settled = state["settled"]
        self._settled = None if settled is None else [np.array(row, dtype=np.int64) for row in settled]

    def features(self, model: nn.Module) -> list[FloatArray]:
        """Returns F of every group."""
        return [channel_features(model, self._network, group) for group in self._groups]

    def clusters(self, features: Sequence[FloatArray], space: SearchSpace) -> list[IndexArray]:
        """Returns per group the (N,) cluster of every channel, as many as the space's budget allows."""
        distances = [np.sqrt(squared_distances(rows)) for rows in features]
        trees = [merge_tree(row) for row in distances]
        structure = self._widths(trees, space)
        return [
            capped(row, tree.labels(width), capacity=_LARGEST_CLUSTER * len(row) / width)
            for row, tree, width in zip(distances, trees, structure, strict=True)
        ]

    def reconstruct(self, model: nn.Module, labels: Sequence[IndexArray], features: Sequence[FloatArray]) -> None:
        """Replaces every channel by the representative of its cluster, momentum included."""
        for group, row, rows in zip(self._groups, labels, features, strict=True):
            matrix = averaging(row) if self._representative == "mean" else choosing(row, rows)
            mix_channels(model, group, torch.from_numpy(matrix), optimiser=self.optimiser)

    def _widths(self, trees: Sequence[MergeTree], space: SearchSpace) -> Structure:
        uniform = space.uniform()
        if self._rates == "uniform":
            return uniform
        dense = np.array([group.width for group in self._groups], dtype=np.float64)
        # A group that reads the image keeps at least the middle between all and the uniform share.
        stem = np.array([group.reads_image for group in self._groups])
        least = np.where(stem, (dense + np.array(uniform.widths)) / 2, 1.0)
        highest = max((float(tree.heights[-1]) for tree in trees if len(tree.heights)), default=1.0)

        def widths_of(knob: float) -> FloatArray:
            counts = [1.0 + np.count_nonzero(tree.heights > (1 - knob) * highest) for tree in trees]
            return np.maximum(np.array(counts), least)

        return bisected_knob(space, widths_of)[0]


def channel_features(model: nn.Module, network: TracedNetwork, group: GroupAxes) -> FloatArray:
    """Returns F of a group: (N, d) filters of its layers with batch norm folded in, folded biases at the end."""
    tensors = named_tensors(model)
    parts = []
    for call in group.calls:
        rows = folded_weight(model, call).flatten(1)
        shift = torch.zeros(len(rows), device=rows.device)
        if call.bias is not None and len(tensors[call.bias]) == len(rows):
            shift = tensors[call.bias].detach()
        norm = None if call.norm is None else model.get_submodule(call.norm.rpartition(".")[0])
        if isinstance(norm, nn.modules.batchnorm._NormBase) and norm.running_var is not None and norm.affine:
            assert norm.running_mean is not None
            shift = (
                norm.bias.detach()
                + (shift - norm.running_mean) * norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
            )
        both = to_numpy(torch.cat([rows, shift[:, None].to(rows)], dim=1))
        parts.append(channel_rows(network, call.output, group.index, both))
    return np.concatenate(parts, axis=1) if parts else np.zeros((group.width, 1))


def capped(distances: FloatArray, labels: IndexArray, *, capacity: float) -> IndexArray:
    """Returns the labels with no cluster above its capacity: its outermost members go to the nearest with room.

    Args:
        distances: (N, N) between channels.
        labels: (N,) cluster of every channel, numbered from 0.
        capacity: most members of a cluster; at least the mean, rounded up.
    """
    labels = labels.copy()
    count = int(labels.max()) + 1
    most = max(int(capacity), -(-len(labels) // count))
    sizes = np.bincount(labels, minlength=count)
    for full in np.flatnonzero(sizes > most):
        members = np.flatnonzero(labels == full)
        if distances[np.ix_(members, members)].max() <= _EQUAL * distances.mean():
            continue  # equal channels, dead ones above all, are added without loss; apart they would spoil others
        outermost = members[np.argsort(-distances[np.ix_(members, members)].sum(1), kind="stable")]
        for channel in outermost[: sizes[full] - most]:
            rooms = np.flatnonzero(sizes < most)
            to_each = [distances[channel, labels == room].mean() for room in rooms]
            chosen = int(rooms[int(np.argmin(to_each))])
            labels[channel] = chosen
            sizes[chosen] += 1
        sizes[full] = most
    return labels


def averaging(labels: IndexArray) -> FloatArray:
    """Returns the (N, N) matrix that replaces every channel by the mean of its cluster."""
    same = (labels[:, None] == labels[None, :]).astype(np.float64)
    found: FloatArray = same / same.sum(1, keepdims=True)
    return found


def choosing(labels: IndexArray, features: FloatArray) -> FloatArray:
    """Returns the (N, N) matrix that replaces every channel by its cluster's medoid: least sum of distances in F."""
    distances = np.sqrt(squared_distances(features))
    matrix = np.zeros((len(labels), len(labels)))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        medoid = members[distances[np.ix_(members, members)].sum(1).argmin()]
        matrix[members, medoid] = 1.0
    return matrix


def _first_members(labels: IndexArray) -> IndexArray:
    """Returns (N,) the first channel of each channel's cluster."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)
