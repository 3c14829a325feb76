"""Widths as numbers of clusters: of filters (affinity propagation, average linkage) or of feature maps (DBSCAN).

The number of clusters falls with a knob that means something else in each method. Distances are computed once in the
profile and clusterings are cached, so bisecting a knob costs only the clustering.

Notation:
    S   (N, N) similarity of filters: minus the squared Euclidean distance
    p   (N,) preference of each filter to be an exemplar
    R   (N, N) responsibility: how well k suits i as its exemplar, against the other candidates
    A   (N, N) availability: how much speaks for k as an exemplar, by what the others say
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import DBSCAN, AffinityPropagation, AgglomerativeClustering
from sklearn.exceptions import ConvergenceWarning

from autoprune.core.cost import FloatArray, IntArray
from autoprune.core.profile import ModelProfile
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.strategies.heuristics import bisected

#: Wider groups are clustered on a sample: affinity propagation takes O(N^2) memory and up to 1 s at N = 512.
_LARGEST_AFFINITY = 128
#: beta on a grid: exemplars jump, so a finer knob finds nothing between, and fits can be reused.
BETAS: FloatArray = np.concatenate([np.linspace(0.05, 1.2, 24), np.geomspace(1.4, 20.0, 8)])
#: `min_samples` of the published code (ACP 2021).
MIN_SAMPLES = 5
#: Damping and iterations of affinity propagation: scikit-learn's defaults, which the published code leaves as they are,
#: and what is tried when they find no exemplar.
PROPAGATIONS = ((0.5, 200), (0.9, 1000))
#: Squared distances below this share of the largest are rounding: such filters are the same.
_SAME = 1e-12


def exemplar(space: SearchSpace, profile: ModelProfile) -> Structure:
    """Returns the structure of as many channels as affinity propagation finds exemplar filters (EPruner, 2021).

    S is minus the squared distance of the raw filters, p = beta * column median of S including the zero diagonal,
    damping 0.5. Departures: one beta for all groups, bisected to the budget (the published per-layer constants do not
    transfer between checkpoints); identical filters are merged first; where propagation does not settle it runs
    again with damping 0.9; groups of more than 128 channels are clustered on 128 of them and scaled.
    """
    similarities = [_sampled(-group.filter_distances) for group in profile.groups]
    widths = np.array([group.width for group in profile.groups], dtype=np.float64)
    counts: dict[tuple[int, int], float] = {}

    def count(index: int, step: int) -> float:
        if (index, step) not in counts:
            S = similarities[index]
            counts[index, step] = widths[index] * len(affinity_exemplars(S, float(BETAS[step]))) / len(S)
        return counts[index, step]

    def widths_of(knob: float) -> FloatArray:
        # Interpolated between grid points: the projection would do the same by scaling, but blindly.
        low, share = beta_cell(knob)
        pairs = [((1 - share) * count(i, low), share * count(i, low + 1)) for i in range(len(widths))]
        return np.array([left + right for left, right in pairs])

    return bisected(space, widths_of)


def cluster(space: SearchSpace, profile: ModelProfile) -> Structure:
    """Returns the structure of the clusters that remain when filters closer than one height are merged (ours).

    Average linkage on distances between filters with batch norm folded in, each group's distances divided by their
    mean, so that one height suits layers of any scale. In the place of ASCP (2022), whose formulas could not be had.
    """
    heights = [merge_tree(np.sqrt(np.maximum(group.folded_distances, 0.0))).heights for group in profile.groups]
    highest = max((float(row[-1]) for row in heights if len(row)), default=1.0)

    def widths_of(knob: float) -> FloatArray:
        height = (1 - knob) * highest
        return np.array([1.0 + np.count_nonzero(row > height) for row in heights])

    return bisected(space, widths_of)


def feature_cluster(space: SearchSpace, profile: ModelProfile) -> Structure:
    """Returns the structure of the clusters of mean feature maps, lone maps included (stage 1 of ACP, 2021).

    DBSCAN on cosine distances, `clusters + noise` channels kept, eps bisected. Departure: `min_samples` falls below
    the published 5 in groups of fewer than 40 channels, where 5 equal maps hardly exist.
    """
    counts: dict[tuple[int, float], float] = {}

    def count(index: int, eps: float) -> float:
        if (index, eps) not in counts:
            distances = profile.groups[index].map_distances
            samples = min(MIN_SAMPLES, max(2, len(distances) // 8))
            labels = density_labels(distances, eps, min_samples=samples)
            counts[index, eps] = float(labels.max() + 1)
        return counts[index, eps]

    def widths_of(knob: float) -> FloatArray:
        return np.array([count(index, eps_of(knob)) for index in range(len(profile.groups))])

    return bisected(space, widths_of)


def bisected_knob(space: SearchSpace, widths_of: Callable[[float], FloatArray]) -> tuple[Structure, float]:
    """Returns the structure that `bisected` finds, and the knob in [0, 1] that led to it."""
    knobs: list[float] = []

    def noted(knob: float) -> FloatArray:
        knobs.append(knob)
        return widths_of(knob)

    # The last knob whose widths are asked for is the one that is projected.
    return bisected(space, noted), knobs[-1]


def beta_cell(knob: float) -> tuple[int, float]:
    """Returns the step of `BETAS` below a knob in [0, 1], and how far in [0, 1] it is to the next; 1 is beta 0.05."""
    position = (1 - knob) * (len(BETAS) - 1)
    low = min(int(position), len(BETAS) - 2)
    return low, position - low


def eps_of(knob: float) -> float:
    """Returns the cosine distance of DBSCAN for a knob in [0, 1]; 1 merges only equal maps, 0 everything."""
    # To the fourth power: interesting eps lie near 0 (the paper's are 0.007 to 0.01).
    # Rounded, so that a bisection meets the same few eps again.
    return 2.0 * (1 - round(knob * 256) / 256) ** 4 + 1e-7


def affinity_exemplars(similarity: FloatArray, beta: float) -> IntArray:
    """Returns the ascending exemplars that affinity propagation finds, at least one (EPruner 2021).

    Preferences are `p = beta * column median of S`, the zero diagonal included. Identical channels are merged first:
    by convention they would all be exemplars or all one. Without an exemplar the damping is raised to
    0.9 and the iterations to 1000; then the channel of the largest `R(k, k) + A(k, k)` is the only one (E2).

    Args:
        similarity: (N, N) S.
        beta: above 0; larger means fewer exemplars.
    """
    distinct = distinct_channels(similarity)
    S = similarity[np.ix_(distinct, distinct)]
    if len(S) < 2:
        return distinct
    preference = beta * np.median(S, axis=0)
    for damping, iterations in PROPAGATIONS:
        with warnings.catch_warnings():
            # What does not converge is dealt with here.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UserWarning)
            fit = AffinityPropagation(
                affinity="precomputed", preference=preference, damping=damping, max_iter=iterations, random_state=0
            ).fit(S)
        found = np.asarray(fit.cluster_centers_indices_, dtype=np.int64)
        if len(found):
            return np.sort(distinct[found])
    damping, iterations = PROPAGATIONS[-1]
    evidence = exemplar_evidence(S, preference, damping=damping, iterations=iterations)
    return distinct[[int(evidence.argmax())]]


def exemplar_evidence(similarity: FloatArray, preference: FloatArray, *, damping: float, iterations: int) -> FloatArray:
    """Returns (N,) `R(k, k) + A(k, k)` after so many rounds; above 0 means exemplar (Frey and Dueck 2007, eqs. 1-2).

    scikit-learn does not hand out R and A, and they are needed where it finds nothing.
    """
    S = similarity.copy()
    np.fill_diagonal(S, preference)
    rows = np.arange(len(S))
    R, A = np.zeros_like(S), np.zeros_like(S)
    for _ in range(iterations):
        rivals = A + S
        first = rivals.argmax(axis=1)
        highest = rivals[rows, first]
        rivals[rows, first] = -np.inf
        new = S - highest[:, None]
        # The best candidate is compared with the second best.
        new[rows, first] = S[rows, first] - rivals.max(axis=1)
        R = damping * R + (1 - damping) * new
        support = np.maximum(R, 0.0)
        support[rows, rows] = R[rows, rows]
        new = support.sum(axis=0)[None] - support
        own = new[rows, rows].copy()
        new = np.minimum(new, 0.0)
        new[rows, rows] = own
        A = damping * A + (1 - damping) * new
    evidence: FloatArray = np.diag(R) + np.diag(A)
    return evidence


def distinct_channels(similarity: FloatArray) -> IntArray:
    """Returns the ascending channels that no earlier channel equals."""
    tolerance = max(_SAME, _SAME * float(-similarity.min(initial=0.0)))
    equal = np.tril(similarity >= -tolerance, k=-1)
    return np.flatnonzero(~equal.any(axis=1))


def density_labels(distances: FloatArray, eps: float, *, min_samples: int = MIN_SAMPLES) -> IntArray:
    """Returns (N,) cluster numbers 0, 1, ... of DBSCAN; each noise point has a number of its own after the clusters'.

    Args:
        distances: (N, N), symmetrised.
        eps: reach of a neighbourhood.
        min_samples: points in a neighbourhood, its centre included, that start a cluster.
    """
    symmetric = np.clip((distances + distances.T) / 2, 0.0, None)
    labels: IntArray = np.array(DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(symmetric).labels_)
    noise = labels < 0
    labels[noise] = labels.max(initial=-1) + 1 + np.arange(np.count_nonzero(noise))
    return labels.astype(np.int64)


@dataclass(frozen=True, eq=False)
class MergeTree:
    """An agglomeration of N points.

    Attributes:
        heights: (N - 1,) ascending, at which two clusters merge; in units of the mean distance.
        children: (N - 1, 2) what merges: points below N, the cluster of merge i is N + i.
    """

    heights: FloatArray
    children: IntArray

    def labels(self, clusters: int) -> IntArray:
        """Returns (N,) numbers 0, 1, ... of so many clusters, in the order of their first points."""
        count = len(self.heights) + 1
        parent = np.arange(2 * count - 1)
        for merge in range(count - clusters):
            parent[self.children[merge]] = count + merge
        # From the last merge down, so that every parent is settled before its children.
        for node in reversed(range(len(parent))):
            parent[node] = parent[parent[node]]
        _, first, labels = np.unique(parent[:count], return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[labels].astype(np.int64)


def merge_tree(distances: FloatArray, *, linkage: str = "average") -> MergeTree:
    """Returns the agglomeration of points; the distances are divided by their mean, so that heights compare.

    Args:
        distances: (N, N), symmetric.
        linkage: `average`, `complete` or `single`.
    """
    count = len(distances)
    if count < 2:
        return MergeTree(np.zeros(0), np.zeros((0, 2), dtype=np.int64))
    scale = float(distances.sum()) / (count * (count - 1)) or 1.0
    fit = AgglomerativeClustering(n_clusters=None, distance_threshold=0.0, metric="precomputed", linkage=linkage)
    fit.fit(distances / scale)
    return MergeTree(np.asarray(fit.distances_, dtype=np.float64), np.asarray(fit.children_, dtype=np.int64))


def _sampled(similarity: FloatArray) -> FloatArray:
    """Returns the similarities of evenly spread channels, at most 128."""
    rows = np.arange(len(similarity))
    if len(rows) > _LARGEST_AFFINITY:
        rows = np.unique(np.linspace(0, len(rows) - 1, _LARGEST_AFFINITY).astype(np.int64))
    return similarity[np.ix_(rows, rows)]
