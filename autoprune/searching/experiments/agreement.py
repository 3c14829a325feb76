"""How far two rankings of the same structures agree, and how sure that is.

Notation:
    S   structures
    tau Kendall's rank correlation (tau-b) between the scores of a proxy and the accuracies after a finetune
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autoprune.core.cost import FloatArray
from autoprune.report.records.progress import kendall_tau

_RESAMPLINGS = 2_000
_CONFIDENCE = 0.9


def agreement(scores: FloatArray, truth: FloatArray, rng: np.random.Generator) -> dict[str, Any]:
    """Returns tau, its bootstrap interval, and tau among the better half by the finetune; None where undefined.

    Args:
        scores: (S,) of a proxy, NaN where it failed.
        truth: (S,) accuracies after the finetune, likewise.
        rng: draws structures anew.
    """
    both = np.isfinite(scores) & np.isfinite(truth)
    pairs = np.stack([scores[both], truth[both]], axis=1)
    low, high = bootstrap_interval(pairs, rng)
    better = pairs[pairs[:, 1] >= np.median(pairs[:, 1])] if len(pairs) else pairs
    return {"tau": _tau(pairs), "low": low, "high": high, "tau_better_half": _tau(better), "structures": len(pairs)}


def bootstrap_interval(pairs: FloatArray, rng: np.random.Generator) -> tuple[float | None, float | None]:
    """Returns the ends of the 90 % percentile interval of tau over structures drawn anew; None where undefined.

    Efron 1979 (Bootstrap methods). A structure that is drawn twice is tied with itself, which tau-b leaves out.
    """
    taus = [
        tau
        for _ in range(_RESAMPLINGS if len(pairs) else 0)
        if (tau := _tau(pairs[rng.integers(len(pairs), size=len(pairs))])) is not None
    ]
    if not taus:
        return None, None
    low, high = np.quantile(taus, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def sampling_error(accuracies: FloatArray, images: int) -> float:
    """Returns the standard error of an accuracy over so many images, at the mean of those given."""
    mean = float(np.nanmean(accuracies))
    return float(np.sqrt(mean * (1 - mean) / images))


def _tau(pairs: FloatArray) -> float | None:
    return kendall_tau([(float(first), float(second)) for first, second in pairs])
