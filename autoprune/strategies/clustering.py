"""Widths as numbers of clusters: of filters (affinity propagation, average linkage) or of feature maps (DBSCAN).

The number of clusters falls with a knob that means something else in each method. Distances are computed once in the
profile and clusterings are cached, so bisecting a knob costs only the clustering.

Notation:
    S   (N, N) similarity of filters: minus the squared Euclidean distance
    p   (N,) preference of each filter to be an exemplar
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.cluster import DBSCAN, AffinityPropagation, AgglomerativeClustering
from sklearn.exceptions import ConvergenceWarning

from autoprune.core.cost import FloatArray
from autoprune.core.profile import ModelProfile
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.strategies.heuristics import bisected

#: Wider groups are clustered on a sample: affinity propagation takes O(N^2) memory and up to 1 s at N = 512.
_LARGEST_AFFINITY = 128
#: beta on a grid: exemplars jump (methods.md, E1), so a finer knob finds nothing between, and fits can be reused.
_BETAS = np.concatenate([np.linspace(0.05, 1.2, 24), np.geomspace(1.4, 20.0, 8)])
#: `min_samples` of the published code (ACP 2021); narrow groups could not form a cluster with it.
_MIN_SAMPLES = 5


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
            counts[index, step] = widths[index] * _exemplars(S, float(_BETAS[step])) / len(S)
        return counts[index, step]

    def widths_of(knob: float) -> FloatArray:
        # Interpolated between grid points: the projection would do the same by scaling, but blindly.
        position = (1 - knob) * (len(_BETAS) - 1)
        low = min(int(position), len(_BETAS) - 2)
        share = position - low
        pairs = [((1 - share) * count(i, low), share * count(i, low + 1)) for i in range(len(widths))]
        return np.array([left + right for left, right in pairs])

    return bisected(space, widths_of)


def cluster(space: SearchSpace, profile: ModelProfile) -> Structure:
    """Returns the structure of the clusters that remain when filters closer than one height are merged (ours).

    Average linkage on distances between filters with batch norm folded in, each group's distances divided by their
    mean, so that one height suits layers of any scale. In the place of ASCP (2022), whose formulas could not be had.
    """
    heights = [_merge_heights(np.sqrt(np.maximum(group.folded_distances, 0.0))) for group in profile.groups]
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
            counts[index, eps] = _kept_maps(profile.groups[index].map_distances, eps)
        return counts[index, eps]

    def widths_of(knob: float) -> FloatArray:
        # To the fourth power: interesting eps lie near 0 (the paper's are 0.007 to 0.01).
        # Rounded, so that a bisection meets the same few eps again.
        eps = 2.0 * (1 - round(knob * 256) / 256) ** 4 + 1e-7
        return np.array([count(index, eps) for index in range(len(profile.groups))])

    return bisected(space, widths_of)


def _sampled(similarity: FloatArray) -> FloatArray:
    """Returns the similarities of evenly spread channels, identical ones merged: they would be one exemplar or all."""
    rows = np.arange(len(similarity))
    if len(rows) > _LARGEST_AFFINITY:
        rows = np.unique(np.linspace(0, len(rows) - 1, _LARGEST_AFFINITY).astype(np.int64))
    return similarity[np.ix_(rows, rows)]


def _exemplars(similarity: FloatArray, beta: float) -> int:
    distinct = _distinct(similarity)
    S = similarity[np.ix_(distinct, distinct)]
    if len(S) < 2 or not np.any(S):
        return 1
    preference = beta * np.median(S, axis=0)
    for damping, iterations in ((0.5, 200), (0.9, 1000)):
        with warnings.catch_warnings():
            # What does not converge is dealt with here.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UserWarning)
            fit = AffinityPropagation(
                affinity="precomputed", preference=preference, damping=damping, max_iter=iterations, random_state=0
            ).fit(S)
        if len(fit.cluster_centers_indices_):
            return len(fit.cluster_centers_indices_)
    return 1


def _distinct(similarity: FloatArray) -> npt.NDArray[np.int64]:
    """Returns the indices of channels that no earlier channel equals."""
    equal = np.tril(similarity >= -1e-12, k=-1)
    return np.flatnonzero(~equal.any(axis=1))


def _merge_heights(distances: FloatArray) -> FloatArray:
    """Returns (N - 1,) ascending heights of average linkage, in units of the mean distance."""
    count = len(distances)
    if count < 2:
        return np.zeros(0)
    scale = float(distances.sum()) / (count * (count - 1)) or 1.0
    fit = AgglomerativeClustering(n_clusters=None, distance_threshold=0.0, metric="precomputed", linkage="average")
    return np.sort(np.asarray(fit.fit(distances / scale).distances_, dtype=np.float64))


def _kept_maps(distances: FloatArray, eps: float) -> float:
    samples = min(_MIN_SAMPLES, max(2, len(distances) // 8))
    symmetric = np.clip((distances + distances.T) / 2, 0.0, None)
    labels = DBSCAN(eps=eps, min_samples=samples, metric="precomputed").fit(symmetric).labels_
    return float(len(np.unique(labels[labels >= 0])) + np.count_nonzero(labels < 0))
