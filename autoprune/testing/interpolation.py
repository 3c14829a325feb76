"""A smooth function of widths from recorded values: a ridge regression whose error is known, not hoped for.

The surrogate of NAS-Bench-301 (Siems et al., 2020) stands for a benchmark too large to record; this one is smaller in
kind: closed form, hence the same on every machine. It shares nothing with the model of the strategy `auto`, which it
would else flatter.

Notation:
    r   (n, G)  retain ratios
    X   (n, F)  features, standardised: per group `r`, `log r` and its square, and all products of two `log r`
    H   (n, n)  hat matrix `X (X'X + p I)^-1 X'`: fitted values are `H y`
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core.cost import FloatArray

#: Ridge penalties, of which the one with the smallest leave-one-out error is taken.
_PENALTIES = tuple(np.geomspace(1e-3, 1e3, 25))


@dataclass(frozen=True, eq=False)
class Interpolation:
    """A fitted regression.

    Attributes:
        dense: (G,) dense widths.
        pairs: whether products of two groups are features.
        centre: (F,) subtracted from the features.
        scale: (F,) they are divided by.
        weights: (F,).
        constant: mean of the values.
        left_out: (n,) the prediction of each recorded value from all the others.
    """

    dense: FloatArray
    pairs: bool
    centre: FloatArray
    scale: FloatArray
    weights: FloatArray
    constant: float
    left_out: FloatArray

    @classmethod
    def of(cls, widths: FloatArray, values: FloatArray, dense: FloatArray, *, pairs: bool) -> Interpolation:
        """Returns the regression of (n,) values on (n, G) widths; leave-one-out errors choose its penalty.

        Leaving one out needs no second fit: its error is `(y - H y) / (1 - diag H)` (Allen's PRESS, 1974).
        """
        raw = _features(widths, dense, pairs=pairs)
        centre, scale = raw.mean(axis=0), raw.std(axis=0)
        scale = np.where(scale > 1e-9, scale, 1.0)
        x, constant = (raw - centre) / scale, float(values.mean())
        y = values - constant
        left, singular, right = np.linalg.svd(x, full_matrices=False)
        projected = left.T @ y

        def residuals(penalty: float) -> FloatArray:
            shrunk = singular**2 / (singular**2 + penalty)
            # 1 / n: the constant is fitted too.
            leverage = (left**2) @ shrunk + 1.0 / len(y)
            found: FloatArray = (y - left @ (shrunk * projected)) / np.maximum(1.0 - leverage, 1e-6)
            return found

        errors = [float((residuals(penalty) ** 2).mean()) for penalty in _PENALTIES]
        penalty = _PENALTIES[int(np.argmin(errors))]
        weights = right.T @ (singular / (singular**2 + penalty) * projected)
        return cls(dense, pairs, centre, scale, weights, constant, values - residuals(penalty))

    def __call__(self, widths: FloatArray) -> FloatArray:
        """Returns (m,) values at (m, G) widths."""
        x = (_features(widths, self.dense, pairs=self.pairs) - self.centre) / self.scale
        found: FloatArray = x @ self.weights + self.constant
        return found


def _features(widths: FloatArray, dense: FloatArray, *, pairs: bool) -> FloatArray:
    ratios = np.maximum(widths, 0.5) / dense
    logs = np.log(ratios)
    parts = [ratios, logs, logs**2]
    if pairs:
        rows, columns = np.triu_indices(len(dense), k=1)
        parts.append(logs[:, rows] * logs[:, columns])
    return np.hstack(parts)
