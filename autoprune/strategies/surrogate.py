"""A small Gaussian process over widths whose prior knows what a profile knows.

The value of a structure is a sum of effects per group, each about proportional to the energy the group loses, plus a
smooth rest for interactions. Kernels of shared, per-group and interacting effects are added; their shares, the length
scale and the noise are chosen by marginal likelihood on a small grid, which is enough and never diverges.

Notation:
    u   (n, G)  share of its energy that each group loses at its width, 0 when dense
    v   (n, G)  logarithm of the retain ratio, 0 when dense
    y   (n,)    values, standardised
    K   (n, n)  prior covariance without noise; its mean diagonal is 1
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from autoprune.core.cost import FloatArray
from autoprune.core.profile import ModelProfile
from autoprune.core.space import SearchSpace

#: Share of the variance per kernel: what all groups share, linear in u, linear in v, interactions.
_SHARES = (
    (0.5, 0.3, 0.1, 0.1),
    (0.25, 0.45, 0.15, 0.15),
    (0.1, 0.3, 0.3, 0.3),
    (0.1, 0.15, 0.15, 0.6),
)
_LENGTHS = (0.35, 0.9)
_NOISES = (0.01, 0.05, 0.2, 0.5)
_JITTER = 1e-6


class WidthFeatures:
    """Maps widths to the two views of the kernels.

    Without a profile the energy is taken to fall as it does for a spectrum that decays evenly over the channels.
    """

    def __init__(self, space: SearchSpace, profile: ModelProfile | None) -> None:
        self._dense = np.asarray(space.dense.widths, dtype=np.float64)
        longest = int(self._dense.max()) + 1
        self._error = np.zeros((space.dimension, longest))
        for index, group in enumerate(space.groups):
            if profile is not None:
                row = np.asarray(profile.groups[index].reconstruction_error, dtype=np.float64)
            else:
                kept = np.arange(group.width + 1) / group.width
                row = (np.exp(-4 * kept) - np.exp(-4)) / (1 - np.exp(-4))
            self._error[index, : group.width + 1] = row
        self._rows = np.arange(space.dimension)

    def energy(self, widths: FloatArray) -> FloatArray:
        """Returns (n, G) u of (n, G) integer widths."""
        found: FloatArray = self._error[self._rows, widths.astype(np.int64)]
        return found

    def logarithm(self, widths: FloatArray) -> FloatArray:
        """Returns (n, G) v of (n, G) widths."""
        ratios: FloatArray = np.log(np.maximum(widths, 1.0) / self._dense)
        return ratios


@dataclass(frozen=True, slots=True)
class Kernel:
    """Hyper-parameters: shares of the variance, length scale of the interactions, and noise variance."""

    shares: tuple[float, float, float, float]
    length: float
    noise: float


class Surrogate:
    """The process conditioned on values at widths.

    Args:
        features: of the space.
        widths: (n, G) integers, n at least 2.
        values: (n,) higher is better.
        kernel: to reuse; None chooses one by marginal likelihood.
    """

    def __init__(
        self, features: WidthFeatures, *, widths: FloatArray, values: FloatArray, kernel: Kernel | None = None
    ) -> None:
        self._features = features
        u, v = features.energy(widths), features.logarithm(widths)
        self._u_mean, self._v_mean = u.mean(axis=0), v.mean(axis=0)
        self._total_scale = float(u.sum(axis=1).std()) or 1.0
        self._u_scale = float(np.sqrt(((u - self._u_mean) ** 2).sum(axis=1).mean())) or 1.0
        self._v_scale = float(np.sqrt(((v - self._v_mean) ** 2).sum(axis=1).mean())) or 1.0
        self._views = self._view(widths)
        self._mean, self._scale = float(values.mean()), float(values.std()) or 1.0
        self._y = (values - self._mean) / self._scale
        self.kernel = kernel if kernel is not None else self._most_likely()
        self._condition(self.kernel)

    def posterior(self, widths: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns (m,) means and (m,) variances of the noiseless values at (m, G) widths, standardised."""
        total, u, v = views = self._view(widths)
        cross = self._covariance(views, self._views, self.kernel)
        mean: FloatArray = cross @ self._alpha
        shared, by_u, by_v, rest = self.kernel.shares
        prior = shared * total**2 + by_u * (u**2).sum(axis=1) + by_v * (v**2).sum(axis=1) + rest
        variance: FloatArray = prior - ((self._inverse_root @ cross.T) ** 2).sum(axis=0)
        return mean, np.maximum(variance, _JITTER)

    def restore(self, standardised: FloatArray) -> FloatArray:
        """Returns values in the units they were given in."""
        return standardised * self._scale + self._mean

    def additive_effects(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Returns (G,) effects per unit of u and (G,) per unit of v: one draw from their posterior.

        Matheron's rule: draw from the prior, then correct by what the draw misses of the data.
        """
        total, u, v = self._views
        shared, by_u, by_v, rest = self.kernel.shares
        effect_total = float(rng.normal(0.0, np.sqrt(shared)))
        effect_u = rng.normal(0.0, np.sqrt(by_u), u.shape[1])
        effect_v = rng.normal(0.0, np.sqrt(by_v), v.shape[1])
        drawn = total * effect_total + u @ effect_u + v @ effect_v
        drawn = drawn + np.sqrt(rest) * self._root_of_rest @ rng.standard_normal(len(u))
        drawn = drawn + rng.normal(0.0, np.sqrt(self.kernel.noise), len(u))
        correction = self._inverse_root.T @ (self._inverse_root @ (self._y - drawn))
        common = (effect_total + shared * float(total @ correction)) / self._total_scale
        per_energy: FloatArray = (effect_u + by_u * (u.T @ correction)) / self._u_scale + common
        per_log: FloatArray = (effect_v + by_v * (v.T @ correction)) / self._v_scale
        return per_energy, per_log

    def _view(self, widths: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        u, v = self._features.energy(widths) - self._u_mean, self._features.logarithm(widths) - self._v_mean
        return u.sum(axis=1) / self._total_scale, u / self._u_scale, v / self._v_scale

    def _covariance(
        self,
        left: tuple[FloatArray, FloatArray, FloatArray],
        right: tuple[FloatArray, FloatArray, FloatArray],
        kernel: Kernel,
    ) -> FloatArray:
        shared, by_u, by_v, rest = kernel.shares
        smooth = _matern(left[1], left[2], right[1], right[2], kernel.length)
        linear = shared * np.outer(left[0], right[0]) + by_u * left[1] @ right[1].T + by_v * left[2] @ right[2].T
        covariance: FloatArray = linear + rest * smooth
        return covariance

    def _condition(self, kernel: Kernel) -> float:
        """Conditions on the data; returns the log marginal likelihood up to a constant."""
        covariance = self._covariance(self._views, self._views, kernel)
        root = np.linalg.cholesky(covariance + (kernel.noise + _JITTER) * np.eye(len(covariance)))
        # numpy has no triangular solve: one inverse, of a well-conditioned root, instead of an elimination each time.
        self._inverse_root: FloatArray = np.asarray(np.linalg.inv(root), dtype=np.float64)
        half = self._inverse_root @ self._y
        self._alpha: FloatArray = self._inverse_root.T @ half
        return float(-0.5 * half @ half - np.log(np.diag(root)).sum())

    @cached_property
    def _root_of_rest(self) -> FloatArray:
        """Returns (n, n) a root of the interactions' covariance at the data."""
        _, u, v = self._views
        rest = _matern(u, v, u, v, self.kernel.length) + _JITTER * np.eye(len(u))
        return np.asarray(np.linalg.cholesky(rest), dtype=np.float64)

    def _most_likely(self) -> Kernel:
        kernels = [Kernel(*one) for one in product(_SHARES, _LENGTHS, _NOISES)]
        return max(kernels, key=self._condition)


def _matern(u: FloatArray, v: FloatArray, other_u: FloatArray, other_v: FloatArray, length: float) -> FloatArray:
    """Returns (n, m) Matern 5/2 covariances over both views together, whose mean squared norms are 1 each."""
    left, right = np.hstack([u, v]), np.hstack([other_u, other_v])
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * left @ right.T
    # 4: mean squared distance of two draws over two views of unit variance.
    distance = np.sqrt(5.0 * np.maximum(squares, 0.0) / 4.0) / length
    covariance: FloatArray = (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)
    return covariance
