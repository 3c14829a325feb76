"""Principal components [OURS]: as many channels as explain a share of the variance, those that predict the rest.

CCM-LRR's abstract (Wang et al. 2023) speaks of PCA and of a pruning ratio per layer; its released code has neither
eigenvalues nor principal components. This is what such a selection may look like, and ours.

Notation:
    C       (N, N)  correlation (or covariance) of the activations that a group's consumers read, over images and
                    positions; the mean over the consumers of a group of several
    mu      (N,)    eigenvalues of C, descending
    theta   share of the variance: N' = min{m : mu_1 + ... + mu_m >= theta * sum mu}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from autoprune.core.cost import FloatArray
from autoprune.errors import ConfigError
from autoprune.methods.base import Pruned, Subject
from autoprune.methods.options import unpublished
from autoprune.models.cutting.surgery import Kept
from autoprune.models.network import IndexArray
from autoprune.models.reduction.selection import filter_norms
from autoprune.models.reduction.similarity import correlation, input_covariance
from autoprune.strategies.heuristics import bisected

#: Residual variances below this share of the largest variance count as predicted; those channels follow by variance.
_VANISHED = 1e-9


def component_count(eigenvalues: FloatArray, theta: float) -> int:
    """Returns how many of the (N,) largest eigenvalues add up to a share theta of their sum; 1 if all are zero."""
    cumulative = np.cumsum(np.sort(np.clip(eigenvalues, 0.0, None))[::-1])
    # Rounding must not demand the last of N equal eigenvalues at theta = 1.
    short = cumulative < theta * cumulative[-1] * (1 - 1e-12)
    return min(len(eigenvalues), 1 + int(short.sum()))


def pivoted_order(matrix: FloatArray, *, first: FloatArray | None = None) -> IndexArray:
    """Returns (N,) the pivots of a Cholesky decomposition of an (N, N) covariance, the largest residual variance first.

    These are the pivots of a QR decomposition with column pivoting of the activations: each is the channel that those
    before it predict worst.

    Args:
        matrix: symmetric, positive semi-definite.
        first: (N,) breaks ties, the largest first; all variances of a correlation are ties.
    """
    ties = np.diag(matrix) if first is None else first
    presorted = np.argsort(-ties, kind="stable")
    residual = np.array(matrix[np.ix_(presorted, presorted)], dtype=np.float64)
    floor = _VANISHED * max(float(np.diag(residual).max()), 1e-300)
    left = np.ones(len(residual), dtype=bool)
    chosen: list[int] = []
    for _ in range(len(residual)):
        variance = np.where(left, np.diag(residual), -np.inf)
        best = int(variance.argmax())
        if variance[best] <= floor:
            break
        chosen.append(best)
        left[best] = False
        column = residual[:, best] / np.sqrt(residual[best, best])
        residual -= column[:, None] * column
    order: IndexArray = presorted[np.array([*chosen, *np.flatnonzero(left)], dtype=np.int64)]
    return order


@dataclass(frozen=True, slots=False)
class PrincipalComponents:
    """Widths by explained variance, one theta for all groups, bisected to the budget; channels by pivoted Cholesky.

    Follow it by a reduction that predicts the removed channels from the kept ones (least squares, `reconstruct`), which
    is what the choice of channels is made for.

    Attributes:
        statistic: `correlation`, where every live channel counts alike, or `covariance`.
        as_published: there is nothing published to follow; true is an error.
    """

    source: ClassVar[str] = "[OURS], after the abstract of CCM-LRR (Wang et al. 2023), whose code has no PCA"
    trains: ClassVar[bool] = False

    statistic: str = "correlation"
    as_published: bool = False

    def __post_init__(self) -> None:
        if self.statistic not in ("correlation", "covariance"):
            raise ConfigError(f"The option 'statistic' of pca is {self.statistic!r}. Write correlation or covariance.")
        if self.as_published:
            raise unpublished("The method 'pca' is ours: no procedure was published.", instead=", or use 'ccm'")

    def prune(self, subject: Subject) -> Pruned:
        """Returns the channels that predict the others best, on the budget."""
        matrices, orders, spectra = [], [], []
        for group in range(len(subject.network.groups)):
            covariances = covariances_of(subject, group)
            matrix = np.mean([correlation(item) if self._normalises else item for item in covariances], axis=0)
            power = np.mean([np.diag(item) / max(float(np.trace(item)), 1e-300) for item in covariances], axis=0)
            matrices.append(matrix)
            orders.append(pivoted_order(matrix, first=power))
            spectra.append(np.linalg.eigvalsh(matrix))
        structure = bisected(
            subject.space,
            lambda theta: np.array([component_count(row, theta) for row in spectra], dtype=np.float64),
        )
        kept = Kept(tuple(np.sort(order[:width]) for order, width in zip(orders, structure, strict=True)))
        explained = [
            float(np.sort(row)[::-1][:width].sum() / max(row.sum(), 1e-300))
            for row, width in zip(spectra, structure, strict=True)
        ]
        return Pruned(
            kept,
            subject.model,
            facts={
                "smallest explained share": round(min(explained), 4),
                "mean explained share": round(sum(explained) / len(explained), 4),
            },
        )

    @property
    def _normalises(self) -> bool:
        return self.statistic == "correlation"


def covariances_of(subject: Subject, group: int) -> list[FloatArray]:
    """Returns the (N, N) covariance of a group's channels at every consumer with statistics.

    Without statistics, filters of the size of the group's own stand for activations: uncorrelated, with their squared
    norms as variances.
    """
    network, calibration = subject.network, subject.calibration
    found = [
        input_covariance(network, calibration, call, group)
        for call in network.calls
        if call.input is not None and call.call in calibration.moments and group in network.channels[call.input].members
    ]
    return found or [np.diag(filter_norms(subject.model, network, group) ** 2)]
