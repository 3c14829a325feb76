"""Gathers what heuristics read off a network: weights, one pass of calibration images, nothing trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.cost import FloatArray
from autoprune.core.profile import GroupProfile, ModelProfile
from autoprune.models.cutting.folding import folded_weight, output_first
from autoprune.models.cutting.surgery import named_tensor
from autoprune.models.network import IndexArray, LayerCall, TracedNetwork
from autoprune.models.reduction.calibration import Calibration, to_numpy
from autoprune.models.reduction.feature_maps import map_distances, mean_maps
from autoprune.models.reduction.selection import Ranking, consumer_norms, filter_norms
from autoprune.models.reduction.similarity import correlation, input_covariance, squared_distances

_QUANTILES = np.linspace(0.0, 1.0, 1001)


@torch.no_grad()
def profile(
    model: nn.Module,
    network: TracedNetwork,
    calibration: Calibration,
    rankings: Sequence[Ranking],
    images: Tensor,
) -> ModelProfile:
    """Returns the statistics of every prunable group.

    Args:
        model: the dense network, in eval mode.
        network: its trace.
        calibration: its statistics.
        rankings: of `rank_groups`.
        images: (B, C, H, W) images for the mean feature maps; 200 are what ACP uses.
    """
    producers = [_first_producer(network, index) for index in range(len(network.groups))]
    maps = mean_maps(model, [call for call, _ in producers if call is not None], images)
    profiles = []
    for index, group in enumerate(network.groups):
        call, places = producers[index]
        raw, folded = _filters(model, call, places, group.width)
        mean_map = raw[:, :0]
        if call is not None and call.call in maps:
            mean_map = maps[call.call][places].reshape(group.width, -1)
        correlated = _first_correlation(network, calibration, index)
        profiles.append(
            GroupProfile(
                name=group.name,
                filter_norms=filter_norms(model, network, index),
                consumer_norms=consumer_norms(model, network, index),
                filter_distances=squared_distances(raw),
                folded_distances=squared_distances(folded),
                map_distances=map_distances(mean_map, raw),
                correlation=correlated,
                weight_quantiles=_weight_quantiles(raw),
                dead_share=float(1 - np.diag(correlated).mean()),
                reconstruction_error=rankings[index].error,
                order=rankings[index].order.astype(np.float64),
            )
        )
    return ModelProfile(tuple(profiles))


def _first_producer(network: TracedNetwork, group: int) -> tuple[LayerCall | None, IndexArray]:
    """Returns the first layer whose output holds the group, and the (N, k) places of its channels there."""
    width = network.groups[group].width
    for call in network.calls:
        layout = network.channels[call.output]
        if group in layout.members:
            return call, layout.places(group, width)
    return None, np.arange(width)[:, None]


def _filters(model: nn.Module, call: LayerCall | None, places: IndexArray, width: int) -> tuple[FloatArray, FloatArray]:
    """Returns the raw and the folded filters, (N, d) each, of a group's first producer."""
    if call is None:
        return np.zeros((width, 1)), np.zeros((width, 1))
    weight = output_first(named_tensor(model, call.weight).detach(), call)
    raw, folded = to_numpy(weight)[places], to_numpy(folded_weight(model, call))[places]
    return raw.reshape(width, -1), folded.reshape(width, -1)


def _first_correlation(network: TracedNetwork, calibration: Calibration, group: int) -> FloatArray:
    """Returns the (N, N) correlation of a group's activations at its first consumer that has statistics."""
    for call in network.calls:
        if call.input is None or call.call not in calibration.moments:
            continue
        if group in network.channels[call.input].members:
            return correlation(input_covariance(network, calibration, call, group))
    return np.eye(network.groups[group].width)


def _weight_quantiles(rows: FloatArray) -> FloatArray:
    rms = float(np.sqrt((rows**2).mean()))
    quantiles: FloatArray = np.quantile(np.abs(rows), _QUANTILES) / (rms if rms > 0 else 1.0)
    return quantiles
