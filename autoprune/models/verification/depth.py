"""Which groups may vanish, and with them their residual branches: proved on the network like every other cut.

A group whose channels are all removed leaves a constant of the branch it lies in. Whether the rest is still a network
does not follow from the trace, so it is tried: the cut network must equal the masked dense one, cost what was
computed, and every output that depends on the image must still do so. Only where the branch is added to, or
concatenated with, something else can that hold.

What the constant is worth, CIFAR-10's ResNet-20-B, no training, 2,000 training images that are not calibrated on
(`python -m experiments.benchmarks.removed_blocks`; dense 99.95 %: it has seen them), one block less (88.4 % of the
FLOPs) and two (76.9 %): without a constant 94.45 and 65.05, with that of zeroed channels 86.70 and 13.85, with the
mean of the dense branch 95.35 and 57.95, after sequential reconstruction, which solves for it and for the layers
behind, 98.95 and 88.50.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from autoprune.models.cutting.surgery import Kept, cut, keep_all
from autoprune.models.network import TracedNetwork
from autoprune.models.verification.equivalence import failure, largest_deviation, outputs, random_structure, widest
from autoprune.models.verification.precision import DOUBLE, Precision

#: Change of an output between two images, relative to its largest value, below which it counts as a constant.
_CONSTANT = {torch.float64: 1e-9, torch.float32: 1e-6}


def with_vanishing(model: nn.Module, network: TracedNetwork, *, seed: int = 0) -> tuple[TracedNetwork, dict[str, str]]:
    """Returns the network whose groups with `min_width` 0 are those that may vanish, and {other group: why it may not}.

    Groups that only vanish together have the same `branch` afterwards.

    Args:
        model: the dense network.
        network: its verified trace, search-space rules applied.
        seed: of the widths that the other groups have in the proof.
    """
    wished = {index for index, group in enumerate(network.groups) if group.may_vanish}
    refused = {index: "its channels pass through an addition" for index in wished if network.groups[index].coupled}
    open_ = sorted(wished - set(refused))
    precision = widest(model, network, seed=seed) if open_ else DOUBLE

    def objection(gone: Collection[int]) -> str | None:
        return _objection(model, network, gone, seed, precision)

    # Everything at once and a random half settle it as a rule; only if they fail are groups tried one by one.
    half = [index for index in open_ if np.random.default_rng([seed, index]).random() < 0.5]
    if open_ and (objection(open_) or objection(half)):
        accepted: list[int] = []
        for index in open_:
            reason = objection([index]) or objection([*accepted, index])
            if reason is None:
                accepted.append(index)
            else:
                refused[index] = reason
        open_ = accepted
    branch = _branches(network, open_)
    groups = tuple(
        replace(group, min_width=group.min_width or int(index not in branch), branch=branch.get(index, ""))
        for index, group in enumerate(network.groups)
    )
    return replace(network, groups=groups), {network.groups[index].name: why for index, why in refused.items()}


def allowed_to_vanish(network: TracedNetwork, names: Collection[str]) -> TracedNetwork:
    """Returns the network some of whose groups may vanish, each alone; that it leaves a network is not proved."""
    groups = (replace(g, min_width=0, branch=g.name) if g.name in names else g for g in network.groups)
    return replace(network, groups=tuple(groups))


def vanished(network: TracedNetwork, gone: Collection[int]) -> set[int]:
    """Returns the groups that carry nothing of the image, or that nothing reads, once the groups `gone` are empty."""
    dead = set(gone)
    members = [set(layout.members) for layout in network.channels]
    fixed = [bool((layout.group < 0).any()) for layout in network.channels]
    calls = [(call.input, call.output) for call in network.calls]
    while True:
        found = set()
        for group in set(range(len(network.groups))) - dead:
            # A depthwise layer reads what it writes: it is neither source nor reader of its own channels.
            others = [(read, written) for read, written in calls if read != written]
            sources = [read for read, written in others if group in members[written]]
            readers = [written for read, written in others if read is not None and group in members[read]]
            for ends in (sources, readers):
                if ends and all(end is not None and not fixed[end] and members[end] <= dead for end in ends):
                    found.add(group)
        if not found:
            return dead
        dead |= found


def _objection(
    model: nn.Module, network: TracedNetwork, gone: Collection[int], seed: int, precision: Precision
) -> str | None:
    """Returns why these groups cannot be empty together, None if they can."""
    rng = np.random.default_rng([seed, len(gone)])
    widths = random_structure(network, rng).widths
    kept = Kept(
        tuple(
            np.sort(rng.choice(group.width, 0 if index in gone else width, replace=False))
            for index, (group, width) in enumerate(zip(network.groups, widths, strict=True))
        )
    )
    reason = failure(model, network, seed, kept, precision=precision)
    return reason or (
        None if _sees(model, network, kept, rng, precision) else "nothing of the image would reach the output"
    )


def _sees(model: nn.Module, network: TracedNetwork, kept: Kept, rng: np.random.Generator, precision: Precision) -> bool:
    """Returns whether every output that differs between two images in the dense network differs in the cut one."""
    images = [torch.from_numpy(rng.standard_normal((2, *network.input_shape))).to(precision.dtype) for _ in range(2)]
    copy = precision.of(cut(model, network, keep_all(network)).eval())
    floor = _CONSTANT[precision.dtype]
    found = []
    with torch.no_grad(), precision.kept():
        for net in (copy, cut(copy, network, kept)):
            pairs = zip(*(outputs(net, image) for image in images), strict=True)
            found.append([largest_deviation([a], [b]) > floor for a, b in pairs])
    dense, small = found
    return all(after for before, after in zip(dense, small, strict=True) if before)


def _branches(network: TracedNetwork, indices: list[int]) -> dict[int, str]:
    """Returns {group: name of its branch}: groups each of which takes the other with it share one."""
    falls = {index: vanished(network, {index}) for index in indices}
    return {
        index: network.groups[min(other for other in indices if other in falls[index] and index in falls[other])].name
        for index in indices
    }
