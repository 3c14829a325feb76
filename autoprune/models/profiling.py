"""Gathers what heuristics read off a network: weights, one pass of calibration images, nothing trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.cost import FloatArray
from autoprune.core.profile import GroupProfile, ModelProfile
from autoprune.models.calibration import Calibration, to_numpy
from autoprune.models.feature_maps import map_distances, mean_maps
from autoprune.models.folding import folded_weight
from autoprune.models.network import LayerCall, TracedNetwork
from autoprune.models.selection import Ranking, consumer_norms, filter_norms

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
    producers = [_first(network, index, "output") for index in range(len(network.groups))]
    maps = mean_maps(model, [call for call, _ in producers if call is not None], images)
    profiles = []
    for index, group in enumerate(network.groups):
        call, places = producers[index]
        raw, folded = _filters(model, call, places, group.width)
        mean_map = raw[:, :0] if call is None else maps[call.call][places].reshape(group.width, -1)
        correlation, dead = _correlation(network, calibration, index)
        profiles.append(
            GroupProfile(
                name=group.name,
                filter_norms=filter_norms(model, network, index),
                consumer_norms=consumer_norms(model, network, index),
                filter_distances=_squared_distances(raw),
                folded_distances=_squared_distances(folded),
                map_distances=map_distances(mean_map, raw),
                correlation=correlation,
                weight_quantiles=_weight_quantiles(raw),
                dead_share=dead,
                reconstruction_error=rankings[index].error,
                order=rankings[index].order.astype(np.float64),
            )
        )
    return ModelProfile(tuple(profiles))


def _first(network: TracedNetwork, group: int, side: str) -> tuple[LayerCall | None, Any]:
    """Returns the first layer whose output (input) holds the group, and the (N, m) positions of its channels there.

    A channel is one position as a rule; a head is all of its rows of queries, keys and values.
    """
    for call in network.calls:
        layout = getattr(call, side)
        if layout is not None and group in network.channels[layout].members:
            channels = network.channels[layout]
            positions = np.flatnonzero(channels.group == group)
            ordered = positions[np.argsort(channels.channel[positions], kind="stable")]
            return call, ordered.reshape(network.groups[group].width, -1)
    return None, np.arange(network.groups[group].width)[:, None]


def _filters(model: nn.Module, call: LayerCall | None, places: Any, width: int) -> tuple[FloatArray, FloatArray]:
    """Returns the raw and the folded filters, (N, d) each, of a group's first producer."""
    if call is None:
        return np.zeros((width, 1)), np.zeros((width, 1))
    weight = to_numpy(model.get_parameter(call.weight))
    if call.kind == "transposed":
        weight = weight.swapaxes(0, 1)
        return weight[places].reshape(width, -1), weight[places].reshape(width, -1)
    folded = to_numpy(folded_weight(model, call))
    return weight[places].reshape(width, -1), folded[places].reshape(width, -1)


def _correlation(network: TracedNetwork, calibration: Calibration, group: int) -> tuple[FloatArray, float]:
    """Returns the (N, N) correlation of a group's activations at its first consumer, and the share of dead ones."""
    width = network.groups[group].width
    for call in network.calls:
        if call.input is None or call.call not in calibration.moments:
            continue
        channels = network.channels[call.input]
        if group in channels.members:
            positions = np.flatnonzero(channels.group == group)
            places = positions[np.argsort(channels.channel[positions], kind="stable")].reshape(width, -1)
            whole = to_numpy(calibration.covariance(call.call))
            # A flattened map, or a head, has several: the same one of each channel is compared, and all are averaged.
            covariance = np.mean([whole[np.ix_(column, column)] for column in places.T], axis=0)
            # Products in single precision are not symmetric to the last digits on every processor.
            covariance = (covariance + covariance.T) / 2
            deviation = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
            alive = deviation > 1e-6 * max(float(deviation.max()), 1e-30)
            scale = np.where(alive, deviation, 1.0)
            correlation = covariance / scale[:, None] / scale[None, :]
            correlation = np.clip(np.where(alive[:, None] & alive[None, :], correlation, 0.0), -1.0, 1.0)
            return correlation, float(1 - alive.mean())
    return np.eye(width), 0.0


def _squared_distances(rows: FloatArray) -> FloatArray:
    gram = rows @ rows.T
    norms = np.diag(gram)
    distances: FloatArray = np.clip(norms[:, None] + norms[None, :] - 2 * gram, 0.0, None)
    np.fill_diagonal(distances, 0.0)
    return distances


def _weight_quantiles(rows: FloatArray) -> FloatArray:
    rms = float(np.sqrt((rows**2).mean()))
    quantiles: FloatArray = np.quantile(np.abs(rows), _QUANTILES) / (rms if rms > 0 else 1.0)
    return quantiles
