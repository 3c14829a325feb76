"""What heuristics read off a network: numpy statistics per prunable group, gathered once."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.core.cost import FloatArray


@dataclass(frozen=True, eq=False)
class GroupProfile:
    """Statistics of one group of N channels.

    Attributes:
        name: the group's name.
        filter_norms: (N,) L2 norm of the weights that produce each channel, over all producers.
        consumer_norms: (N,) L2 norm of the consumers' weights that read each channel.
        filter_distances: (N, N) squared Euclidean distances between the flattened raw filters of the first producer
            (what affinity propagation clusters, EPruner 2021).
        folded_distances: (N, N) squared Euclidean distances between filters with batch norm folded in.
        map_distances: (N, N) cosine distances, in [0, 2], between the mean feature maps (what ACP 2021 clusters), or
            between the raw filters where a channel's map is a single number, which has no direction.
        correlation: (N, N) correlation of the activations over images and positions, in [-1, 1]; dead channels 0.
        weight_quantiles: (1001,) quantiles of |w| / rms(w) over the producers' weights, ascending.
        dead_share: share of channels that never fire on the calibration images, in [0, 1].
        reconstruction_error: (N + 1,) share of the consumers' input energy lost when the k best channels are kept and
            the rest is predicted from them linearly; entry 0 is 1, entry N is 0, non-increasing.
        order: (N,) channel indices, the most valuable first: the order in which `reconstruction_error` keeps them.
    """

    name: str
    filter_norms: FloatArray
    consumer_norms: FloatArray
    filter_distances: FloatArray
    folded_distances: FloatArray
    map_distances: FloatArray
    correlation: FloatArray
    weight_quantiles: FloatArray
    dead_share: float
    reconstruction_error: FloatArray
    order: FloatArray

    @property
    def width(self) -> int:
        """N."""
        return len(self.filter_norms)


@dataclass(frozen=True, eq=False)
class ModelProfile:
    """One `GroupProfile` per prunable group of the search space, in its order."""

    groups: tuple[GroupProfile, ...]
