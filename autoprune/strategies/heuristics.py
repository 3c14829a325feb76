"""Structures straight from a profile, without evaluating anything: one monotone knob each, bisected to the budget.

Each heuristic maps a knob to wished widths, wider as the knob grows. The knob is bisected to the budget and the rest
is left to the space's projection. Clustering heuristics live in `clustering`, which needs scikit-learn.

Notation:
    N   channels of a group
    mu  (N,) eigenvalues of the correlation of a group's activations
    tau one threshold for all groups
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autoprune.core.cost import FloatArray
from autoprune.core.profile import GroupProfile, ModelProfile
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.errors import ConfigError, nearest
from autoprune.strategies.tables import DamageTables, allocated, largest_within, level_widths

#: No heuristic cuts a group below this share on its own; the projection may, when the budget asks for it.
SMALLEST_SHARE = 0.05
#: PSAP's p_max: at most this share of a group is cut.
_LARGEST_CUT = 0.9
#: Quantile of the normalised weights that counts as small; any value near the middle ranks groups alike.
_SPARSE_QUANTILE = 0.3

Heuristic = Callable[[SearchSpace, ModelProfile], Structure]


def global_l2(space: SearchSpace, profile: ModelProfile) -> Structure:
    """Returns the structure of one threshold on filter norms, each divided by its group's root mean square."""
    norms = [np.sort(group.filter_norms / _rms(group.filter_norms)) for group in profile.groups]
    highest = max(float(row[-1]) for row in norms)

    def widths_of(knob: float) -> FloatArray:
        threshold = (1 - knob) * highest
        return np.array([len(row) - np.searchsorted(row, threshold) for row in norms], dtype=np.float64)

    return bisected(space, widths_of)


def pca(space: SearchSpace, profile: ModelProfile) -> Structure:
    """Returns the structure that explains one share theta of every group's variance.

    Ours, in the place of CCM-LRR's cumulative threshold (2023), whose released code has no eigenvalues:
    N' = min{m : sum_{i <= m} mu_i >= theta * sum mu}.
    """
    explained = [_explained(group) for group in profile.groups]

    def widths_of(theta: float) -> FloatArray:
        return np.array([float(np.interp(theta, row, np.arange(len(row)))) for row in explained])

    return bisected(space, widths_of)


def sparsity(space: SearchSpace, profile: ModelProfile) -> Structure:
    """Returns the structure that cuts every group in proportion to its share of small weights.

    Ours, after the idea of PSAP (2023), whose formulas could not be had: the weight sparsity ratio WSR of a group is
    the share of its weights with |w| / rms <= tau, tau a global quantile; a group loses p = clip(lambda * WSR, 0, 0.9)
    of its channels. Dead channels count as cut weights.
    """
    tau = float(np.mean([np.interp(_SPARSE_QUANTILE, *_cdf(group)[::-1]) for group in profile.groups]))
    ratios = np.array([np.interp(tau, *_cdf(group)) for group in profile.groups])
    dead = np.array([group.dead_share for group in profile.groups])
    ratios = np.maximum(ratios + dead * (1 - ratios), 1e-3)
    dense = np.array([group.width for group in profile.groups], dtype=np.float64)

    def widths_of(knob: float) -> FloatArray:
        # The knob 0 means the largest lambda, at which every group loses p_max.
        lam = (1 - knob) * _LARGEST_CUT / ratios.min()
        kept: FloatArray = dense * (1 - np.clip(lam * ratios, 0.0, _LARGEST_CUT))
        return kept

    return bisected(space, widths_of)


def reconstruction(space: SearchSpace, profile: ModelProfile) -> Structure:
    """Returns the structure that loses the least of the consumers' input energy, summed over groups (ours).

    The error of keeping the k best channels of a group is measured, the cost of a channel is exact, and a price on
    the cost (a Lagrange multiplier) is bisected to the budget.
    """
    widths = level_widths(space, 96)
    errors = [
        group.reconstruction_error[row.astype(np.int64)] for group, row in zip(profile.groups, widths, strict=True)
    ]
    return allocated(space, DamageTables.of(widths, errors))


def _clustering(name: str) -> Heuristic:
    def structure(space: SearchSpace, profile: ModelProfile) -> Structure:
        # Imported when called: scikit-learn takes a second, and only three heuristics need it.
        from autoprune.strategies import clustering

        heuristic: Heuristic = getattr(clustering, name)
        return heuristic(space, profile)

    return structure


#: The most promising first, which is also the order of first proposals. CIFAR-10 ResNet-20-B at 50 % of the FLOPs,
#: block-internal channels, sequential reconstruction, 2,000 hold-out images: feature-cluster 87.9, reconstruction
#: and sparsity 87.6, cluster 86.1, exemplar 85.9, (uniform widths 85.6,) pca 84.8, global-l2 82.6.
HEURISTICS: dict[str, Heuristic] = {
    "reconstruction": reconstruction,
    "feature-cluster": _clustering("feature_cluster"),
    "sparsity": sparsity,
    "cluster": _clustering("cluster"),
    "exemplar": _clustering("exemplar"),
    "pca": pca,
    "global-l2": global_l2,
}


def heuristic_structures(space: SearchSpace, profile: ModelProfile | None) -> dict[str, Structure]:
    """Returns one structure a heuristic, each on the budget (at the upper end of a band); none without a profile.

    Raises:
        ConfigError: the profile describes other groups than the space.
    """
    if profile is None:
        return {}
    require_match(space, profile)
    return {name: heuristic(space, profile) for name, heuristic in HEURISTICS.items()}


def heuristic_structure(name: str, space: SearchSpace, profile: ModelProfile | None) -> Structure:
    """Returns the structure of one heuristic.

    Raises:
        ConfigError: the heuristic is unknown, or there is no profile or one of another network.
    """
    if name not in HEURISTICS:
        raise ConfigError(f"Unknown heuristic {name!r}.{nearest(name, HEURISTICS)}")
    if profile is None:
        raise ConfigError(f"The strategy {name!r} reads a profile of the network. Pass profile=...")
    require_match(space, profile)
    return HEURISTICS[name](space, profile)


def require_match(space: SearchSpace, profile: ModelProfile) -> None:
    """Raises ConfigError unless the profile describes the groups of the space, in their order."""
    profiled = [(group.name, group.width) for group in profile.groups]
    wanted = [(group.name, group.width) for group in space.groups]
    if profiled != wanted:
        differing = next((a for a, b in zip(wanted, profiled, strict=False) if a != b), None)
        where = f"first at {differing[0]!r}" if differing else f"{len(profiled)} groups instead of {len(wanted)}"
        raise ConfigError(f"The profile describes another network than the search space ({where}). Profile it again.")


def bisected(space: SearchSpace, widths_of: Callable[[float], FloatArray]) -> Structure:
    """Returns the structure of the largest knob in [0, 1] within the budget, topped up to use the budget up."""
    dense = np.asarray(space.dense.widths, dtype=np.float64)
    # A knob on channels says nothing of whole branches: none vanishes for being narrow.
    least = np.maximum(SMALLEST_SHARE * dense, [1.0 if group.may_vanish else 0.0 for group in space.groups])

    def wished(knob: float) -> FloatArray:
        return np.maximum(widths_of(knob), least)

    return space.project(wished(largest_within(space, wished, low=0.0, high=1.0))[None])[0]


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2))) or 1.0


def _explained(group: GroupProfile) -> FloatArray:
    """Returns (N + 1,) share of variance that the first m eigenvectors explain, from 0 to 1."""
    eigenvalues = np.clip(np.linalg.eigvalsh((group.correlation + group.correlation.T) / 2)[::-1], 0.0, None)
    total = float(eigenvalues.sum())
    if total <= 0:
        return np.append(0.0, np.ones(group.width))
    return np.append(0.0, np.cumsum(eigenvalues) / total)


def _cdf(group: GroupProfile) -> tuple[FloatArray, FloatArray]:
    """Returns normalised weights and the share of weights up to each: the arguments of `np.interp`."""
    return group.weight_quantiles, np.linspace(0.0, 1.0, len(group.weight_quantiles))
