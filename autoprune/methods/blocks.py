"""Which groups the published procedures of EPruner, ABCPruner and ACP cut: one rule for the three of them."""

from __future__ import annotations

from autoprune.methods.filters import producers
from autoprune.methods.options import unpublished
from autoprune.models.network import LayerKind, Role, TracedNetwork


def published_groups(network: TracedNetwork) -> tuple[int, ...]:
    """Returns the groups that EPruner, ABCPruner and ACP cut: convolutions inside blocks; of plain networks, all.

    Where branches are concatenated, those inside branches; where every convolution ends a branch (DenseNet-40), all.

    Raises:
        ConfigError: there is none.
    """
    inputs = {call.weight: call.input for call in network.calls if call.kind is LayerKind.CONV and call.groups == 1}
    residual = any(call.joins for call in network.calls)
    found = []
    for index, group in enumerate(network.groups):
        weights = [weight for weight, _, _ in producers(network, index)]
        # A residual network's stem may be no part of a stream (ImageNet's feeds a max pool and projections).
        stem = residual and _reads_image(network, index)
        if not group.coupled and not stem and all(weight in inputs for weight in weights):
            found.append(index)
    ends = _branch_ends(network)
    within_branches = [index for index in found if index not in ends and (not ends or not _reads_image(network, index))]
    found = within_branches or found
    if not found:
        raise unpublished(
            "As published, only convolutions inside blocks are cut, and no prunable group of this network is one.",
            instead=", or widen the scope",
        )
    return tuple(found)


def _branch_ends(network: TracedNetwork) -> set[int]:
    """Returns the groups that some layer reads beside others: their channels are concatenated."""
    read = [network.channels[axis.channels].members for axis in network.axes if axis.role is Role.CONSUMES]
    return {group for members in read if len(members) > 1 for group in members}


def _reads_image(network: TracedNetwork, group: int) -> bool:
    """Returns whether a layer that produces a group's channels reads none that could be cut: a stem."""
    inputs = {call.weight: call.input for call in network.calls}
    return any(inputs.get(weight) is None for weight, _, _ in producers(network, group))
