"""How alike channels are: distances between rows that describe them, and how their activations correlate."""

from __future__ import annotations

import numpy as np

from autoprune.core.cost import FloatArray, IntArray
from autoprune.models.network import LayerCall, TracedNetwork
from autoprune.models.reduction.calibration import Calibration, to_numpy

#: Standard deviations below this share of a group's largest are dead.
_DEAD = 1e-6


def squared_distances(rows: FloatArray) -> FloatArray:
    """Returns (N, N) squared Euclidean distances of (N, d) rows, with the rounding of their squared norms."""
    gram = rows @ rows.T
    squares = np.diag(gram)
    found: FloatArray = np.clip(squares[:, None] + squares[None, :] - 2 * gram, 0.0, None)
    np.fill_diagonal(found, 0.0)
    return found


def cosine_distances(rows: FloatArray) -> FloatArray:
    """Returns (N, N) distances in [0, 2] of (N, d) rows; a zero row is 1 away from all others."""
    unit = unit_rows(rows)
    found: FloatArray = np.clip(1.0 - unit @ unit.T, 0.0, 2.0)
    np.fill_diagonal(found, 0.0)
    return found


def unit_rows(rows: FloatArray) -> FloatArray:
    """Returns (N, d) rows divided by their norms; zero rows stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: FloatArray = rows / np.where(norms > 0, norms, 1.0)
    return unit


def nearest_kept(distances: FloatArray, kept: IntArray) -> IntArray:
    """Returns (N,) the kept channel nearest to every channel by (N, N) distances; kept ones are their own."""
    found = kept[distances[:, kept].argmin(axis=1)]
    found[kept] = kept
    return np.asarray(found, dtype=np.int64)


def input_covariance(network: TracedNetwork, calibration: Calibration, call: LayerCall, group: int) -> FloatArray:
    """Returns the (N, N) covariance of a group's channels in the input of one layer that has statistics.

    A flattened map, or a head, holds a channel at several positions: the same one of each is compared, and all are
    averaged.
    """
    assert call.input is not None
    places = network.channels[call.input].places(group, network.groups[group].width)
    whole = to_numpy(calibration.covariance(call.call))
    mean = np.mean([whole[np.ix_(column, column)] for column in places.T], axis=0)
    # Products in single precision are not symmetric to the last digits on every processor.
    covariance: FloatArray = (mean + mean.T) / 2
    return covariance


def correlation(covariance: FloatArray) -> FloatArray:
    """Returns the correlation; rows and columns of dead channels are zero, the diagonal of live ones exactly 1."""
    deviation = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    alive = deviation > _DEAD * max(float(deviation.max()), 1e-30)
    scale = np.where(alive, deviation, np.inf)
    found: FloatArray = np.clip(covariance / scale[:, None] / scale, -1.0, 1.0)
    np.fill_diagonal(found, alive.astype(np.float64))
    return found
