"""Clusters of channels by their features: k-means, a merge tree, and a cap on the size of a cluster.

Notation:
    N   channels; d their features; k clusters
    x       (N, d) features
    labels  (N,) numbers in [0, k), every one of which occurs
"""

from __future__ import annotations

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from autoprune.core.cost import FloatArray, IntArray
from autoprune.strategies.clustering import MergeTree, merge_tree

_ROUNDS = 50


def distances_between(x: FloatArray, y: FloatArray) -> FloatArray:
    """Returns (N, M) Euclidean distances of the rows of x (N, d) and y (M, d)."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    distances: FloatArray = np.sqrt(np.clip(squares, 0.0, None))
    return distances


def compressed(x: FloatArray) -> FloatArray:
    """Returns (N, min(N, d)) features with the same distances: filters have up to 5,000 weights, groups 64 of them."""
    if x.shape[1] <= x.shape[0]:
        return x
    values, vectors = np.linalg.eigh(x @ x.T)
    reduced: FloatArray = vectors * np.sqrt(np.clip(values, 0.0, None))
    return reduced


def tree(x: FloatArray, *, linkage: str) -> MergeTree:
    """Returns the agglomeration by `average` or `ward` linkage; heights in units of the median pairwise distance."""
    count = len(x)
    distances = distances_between(x, x)
    np.fill_diagonal(distances, 0.0)
    pairs = distances[np.triu_indices(count, k=1)]
    # Where most channels are equal the median is 0: the mean is not, unless all are.
    median = float(np.median(pairs)) if count > 1 else 0.0
    scale = median or (float(pairs.mean()) if count > 1 else 0.0) or 1.0
    if linkage == "ward" and count > 1:
        fit = AgglomerativeClustering(n_clusters=None, distance_threshold=0.0, linkage="ward").fit(x / scale)
        return MergeTree(np.asarray(fit.distances_, dtype=np.float64), np.asarray(fit.children_, dtype=np.int64))
    found = merge_tree(distances)
    mean = float(pairs.mean()) if count > 1 else 1.0
    return MergeTree(found.heights * (mean / scale or 1.0), found.children)


def centres(x: FloatArray, labels: IntArray) -> FloatArray:
    """Returns (k, d) means of the clusters."""
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, labels, x)
    means: FloatArray = sums / np.maximum(counts, 1)[:, None]
    return means


def k_means(x: FloatArray, count: int, *, previous: IntArray | None = None) -> IntArray:
    """Returns labels of `count` clusters (Lloyd), started from previous labels; deterministic.

    Clusters that are too many merge by Ward linkage of their centres; where they are too few, or one runs empty, the
    channel farthest from its centre leaves it.

    Args:
        x: features.
        count: k, in [1, N].
        previous: labels of an earlier clustering; None starts with every channel alone.
    """
    labels = np.arange(len(x)) if previous is None else _numbered(previous)
    if labels.max() + 1 > count:
        labels = _numbered(tree(centres(x, labels), linkage="ward").labels(count)[labels])
    labels = _filled(x, labels, count)
    for _ in range(_ROUNDS):
        nearest = _filled(x, distances_between(x, centres(x, labels)).argmin(1), count)
        if np.array_equal(nearest, labels):
            break
        labels = nearest
    return labels


def capped(x: FloatArray, labels: IntArray, *, largest: int) -> IntArray:
    """Returns labels whose clusters have at most `largest` members: those farthest from the centre go to others.

    Args:
        x: features.
        labels: k clusters; k times `largest` is at least N.
        largest: most members of a cluster.
    """
    labels = labels.copy()
    while True:
        sizes = np.bincount(labels)
        full = int(sizes.argmax())
        if sizes[full] <= largest:
            return labels
        middle = centres(x, labels)
        members = np.flatnonzero(labels == full)
        leaving = members[int(distances_between(x[members], middle[full : full + 1])[:, 0].argmax())]
        reach = distances_between(x[leaving : leaving + 1], middle)[0]
        labels[leaving] = int(np.where(sizes < largest, reach, np.inf).argmin())


def representatives(labels: IntArray) -> IntArray:
    """Returns (N,) the first member of every channel's cluster."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    found: IntArray = first[inverse].astype(np.int64)
    return found


def medoids(x: FloatArray, labels: IntArray) -> IntArray:
    """Returns (N,) the member of every channel's cluster that is nearest to all of its members together."""
    found = np.empty(len(x), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        found[members] = members[int(distances_between(x[members], x[members]).sum(0).argmin())]
    return found


def _numbered(labels: IntArray) -> IntArray:
    found: IntArray = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return found


def _filled(x: FloatArray, labels: IntArray, count: int) -> IntArray:
    """Returns labels all of which occur: the farthest member of a shared cluster becomes each missing one."""
    labels = labels.astype(np.int64)
    for missing in range(count):
        sizes = np.bincount(labels, minlength=count)
        if sizes[missing]:
            continue
        away = np.linalg.norm(x - centres(x, labels)[labels], axis=1)
        labels[int(np.where(sizes[labels] > 1, away, -1.0).argmax())] = missing
    return labels
