"""Proves a trace on the network itself: the cut network must equal the masked dense one, and cost what was computed.

*Mask equivalence:* the cut network's output equals that of the dense network whose removed channels are zero, wherever
they are read. A group for which it does not hold (a forward with widths written into it) is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.core.cost import AxisWidth, Cost, LayerTerm
from autoprune.core.structure import Structure
from autoprune.errors import one_line
from autoprune.models.costing.counting import count, count_on
from autoprune.models.cutting.surgery import Kept, cut, keep_all, named_tensors, random_kept
from autoprune.models.network import TracedNetwork
from autoprune.models.tracing.auxiliary import as_in_training
from autoprune.models.verification.precision import DOUBLE, MOST_IN_SINGLE, SINGLE, Precision, allowed, round_anew
from autoprune.models.watching.origins import COMPUTED
from autoprune.tasks.detectors import raw_outputs

#: Largest relative deviation in double precision that counts as equal.
TOLERANCE = DOUBLE.tolerance


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked and how far off it was.

    Attributes:
        deviation: largest |cut - masked| over the outputs, relative to the largest |masked|.
        computed: cost by arithmetic of the random structure that was cut.
        counted: cost counted on the really cut network.
        precision: what both networks ran in.
        tolerance: largest deviation that counts as equal.
    """

    deviation: float
    computed: Cost
    counted: Cost
    precision: Precision = DOUBLE
    tolerance: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        """Whether outputs agree."""
        return self.deviation <= self.tolerance

    @property
    def holds(self) -> bool:
        """Whether outputs agree and costs are equal to the last MAC and parameter."""
        return self.agrees and self.computed == self.counted


def random_structure(network: TracedNetwork, rng: np.random.Generator) -> Structure:
    """Returns random widths in [1, dense] for every group."""
    return Structure(tuple(int(rng.integers(1, group.width + 1)) for group in network.groups))


def _cut_everywhere(network: TracedNetwork, rng: np.random.Generator) -> Structure:
    """Returns random widths below the dense ones: a group that keeps all of its few heads would prove nothing."""
    return Structure(tuple(int(rng.integers(1, max(2, group.width))) for group in network.groups))


def verify(
    model: nn.Module,
    network: TracedNetwork,
    *,
    seed: int = 0,
    kept: Kept | None = None,
    precision: Precision | None = None,
) -> Verification:
    """Returns how well a random cut of every group (or `kept`) agrees with the masked dense one.

    In double precision, all of it: equality is then a matter of 1e-12, not of how deep the network is. In single
    precision where the forward refuses that.

    Args:
        model: the dense network.
        network: its trace.
        seed: of the cut and of the images.
        kept: the channels that the cut keeps.
        precision: that both networks run in, where `widest` has found it; None finds it.

    Raises:
        RuntimeError: the cut network's forward fails, whatever torch raised.
    """
    rng = np.random.default_rng(seed)
    kept = kept or random_kept(network, _cut_everywhere(network, rng), rng)
    example = torch.from_numpy(rng.standard_normal((2, *network.input_shape)))
    precision = precision or widest(model, network, seed=seed)
    copy, example = precision.of(cut(model, network, keep_all(network)).eval()), example.to(precision.dtype)
    reference, small = masked(copy, network, kept), cut(copy, network, kept)
    with precision.kept():
        expected = seen(reference, network, example)
        deviation = largest_deviation(expected, seen(small, network, example))
        if network.picks_by_value:
            # How much there is to compute depends on the image, so both networks must see the same ones.
            counted = count_on(small, example)[0]
            computed = cost_after(network, kept, count_on(reference, example)[1])
        else:
            counted = count(small, tuple(example[:1].shape), dtype=precision.dtype)
            computed = network.cost_model.cost(kept.structure)
        tolerance = precision.tolerance
        if precision is SINGLE and tolerance < deviation <= MOST_IN_SINGLE:
            round_anew(reference, torch.Generator().manual_seed(seed))
            tolerance = allowed(largest_deviation(expected, seen(reference, network, example)))
    return Verification(deviation, computed, counted, precision, tolerance)


def widest(model: nn.Module, network: TracedNetwork, *, seed: int = 0) -> Precision:
    """Returns the precision to compare in: double, or single where the dense network's own forward refuses that."""
    # Such as a custom operation without a kernel for doubles. A cut network that fails is wrong in either precision.
    example = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, *network.input_shape)))
    dense = DOUBLE.of(cut(model, network, keep_all(network)).eval())
    try:
        with DOUBLE.kept():
            seen(dense, network, example)
    except Exception:
        return SINGLE
    return DOUBLE


def largest_deviation(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Returns the largest absolute difference relative to the largest expected value.

    It is infinite if shapes differ, or if a value is not finite that is in the other network, or is another there.
    Where no value is finite nothing is compared, and it is infinite, too.
    """
    if [item.shape for item in expected] != [item.shape for item in found]:
        return float("inf")
    # The maximum of Python overlooks a NaN, and the difference of two infinite values is one.
    pairs = [(a.flatten(), b.flatten()) for a, b in zip(expected, found, strict=True) if a.numel()]
    if not pairs:
        return 0.0
    left, right = (torch.cat([pair[side].double() for pair in pairs]) for side in (0, 1))
    finite = left.isfinite()
    if not bool(finite.any()) or not torch.equal(left[~finite].nan_to_num(7.0), right[~finite].nan_to_num(7.0)):
        return float("inf")
    deviation = float((left - right)[finite].abs().max())
    return deviation / max(1e-30, float(left[finite].abs().max())) if deviation < float("inf") else float("inf")


def seen(model: nn.Module, network: TracedNetwork, images: Tensor) -> list[Tensor]:
    """Returns what dense and cut network must agree on: the outputs, as a rule.

    Where a forward picks by value (boxes with high scores), little of what was computed may reach the outputs: what
    every layer without prunable channels computes is compared, too. So are the outputs in training, where these come
    from layers that do not run otherwise.
    """
    found: list[Tensor] = []
    fixed = {call.layer for call in network.calls if not network.channels[call.output].members}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: found.append(output.detach().clone()))
        for name, module in model.named_modules()
        if network.picks_by_value and name in fixed
    ]
    try:
        with torch.no_grad():
            found = [*outputs(model, images), *found]
        if network.auxiliary:
            with as_in_training(model):
                found.extend(outputs(model, images))
        return found
    finally:
        for handle in handles:
            handle.remove()


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Returns every floating-point tensor that the network puts out."""
    found = tree_leaves(raw_outputs(model, images))
    return [leaf for leaf in found if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def cost_after(network: TracedNetwork, kept: Kept, uses: Mapping[str, int]) -> Cost:
    """Returns the computed cost when weights are used as often as was counted, instead of as often as was traced."""
    terms = (replace(term, uses=uses.get(term.name, 0)) for term in network.cost_model.terms)
    return replace(network.cost_model, terms=tuple(terms)).cost(kept.structure)


def masked(model: nn.Module, network: TracedNetwork, kept: Kept) -> nn.Module:
    """Returns a dense copy in which removed channels are zero, and consumers have zero weights where they read them.

    Zero weights alone would leave a norm over channels, as SSD divides by one, with those that are removed. Zero
    channels alone would not stay so behind a sigmoid.
    """
    copy = cut(model, network, keep_all(network))
    mask(copy, network, kept)
    return copy


def mask(model: nn.Module, network: TracedNetwork, kept: Kept) -> None:
    """Zeroes the removed channels of a dense network in place: see `masked`."""
    masks = kept.masks(network)
    tensors = named_tensors(model)
    with torch.no_grad():
        for axis in network.axes:
            tensor = tensors[axis.names[0]]
            if tensor.is_floating_point():
                keep = torch.zeros(tensor.shape[axis.axis], dtype=tensor.dtype, device=tensor.device)
                keep[torch.from_numpy(network.channels[axis.channels].kept(masks)).to(tensor.device)] = 1
                tensor.mul_(keep.reshape([-1 if dim == axis.axis else 1 for dim in range(tensor.dim())]))


def verified(model: nn.Module, network: TracedNetwork, *, seed: int = 0) -> TracedNetwork:
    """Returns the network with every group frozen whose cut cannot be proved, the reason named.

    One random cut of all groups settles it as a rule; only if it fails are groups tried one by one.
    """
    if not network.groups:
        return network
    precision = widest(model, network, seed=seed)
    if failure(model, network, seed, precision=precision) is None:
        return network
    completed = _completed(model, network, seed, precision)
    if completed is not network and failure(model, completed, seed, precision=precision) is None:
        return completed
    network, broken = completed, dict[str, str]()
    for position, group in enumerate(network.groups):
        indices = list(keep_all(network).indices)
        rng = np.random.default_rng([seed, position])
        width = max(1, group.width // 2 - (1 if group.width > 4 else 0))
        indices[position] = np.sort(rng.choice(group.width, width, replace=False))
        reason = failure(model, network, seed, Kept(tuple(indices)), precision=precision)
        if reason is not None:
            broken[group.name] = reason
    survivors = restricted(network, {group.name for group in network.groups} - set(broken), frozen=broken)
    reason = failure(model, survivors, seed, precision=precision) if survivors.groups else None
    if reason is not None:
        everything = {group.name: f"cut together with other groups, {reason}" for group in survivors.groups}
        survivors = restricted(survivors, set(), frozen=everything)
    return survivors


def _completed(model: nn.Module, network: TracedNetwork, seed: int, precision: Precision) -> TracedNetwork:
    """Returns the network with a fixed cost for the multiply-accumulates that the dense one makes unknown to the trace.

    Groups that do not reach them are then proved as ever; those that do still cost something else once they are cut.
    """
    if network.picks_by_value:
        return network
    try:
        dense = verify(model, network, seed=seed, kept=keep_all(network), precision=precision)
    except Exception:
        return network  # whatever it is, it is told of every group
    missing = dense.counted.macs - dense.computed.macs
    if missing <= 0:
        return network
    term = LayerTerm(COMPUTED, 1, missing, AxisWidth(1), element_bytes=0, trained=False)
    return replace(network, cost_model=replace(network.cost_model, terms=(*network.cost_model.terms, term)))


def failure(
    model: nn.Module,
    network: TracedNetwork,
    seed: int,
    kept: Kept | None = None,
    *,
    precision: Precision | None = None,
) -> str | None:
    """Returns why a random cut (or `kept`) cannot be proved in a precision, None if it can."""
    try:
        result = verify(model, network, seed=seed, kept=kept, precision=precision)
    except Exception as error:
        return f"the forward fails once it is cut ({one_line(error)[:150]})"
    if not result.agrees:
        return f"the cut network differs from the masked dense one by {result.deviation:.1e}"
    if result.holds:
        return None
    counted, computed = result.counted, result.computed
    return (
        f"the cut network makes {counted.macs:,} multiply-accumulates with {counted.params:,} parameters, "
        f"not the computed {computed.macs:,} with {computed.params:,}"
    )


def restricted(network: TracedNetwork, names: set[str], *, frozen: Mapping[str, str] | None = None) -> TracedNetwork:
    """Returns the network with only the named groups prunable; the others keep their dense width."""
    order = [index for index, group in enumerate(network.groups) if group.name in names]
    place = np.full(len(network.groups) + 1, -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    channels = tuple(
        replace(item, group=place[item.group], channel=np.where(place[item.group] >= 0, item.channel, 0))
        for item in network.channels
    )
    return replace(
        network,
        groups=tuple(network.groups[index] for index in order),
        channels=channels,
        cost_model=network.cost_model.restricted(order),
        frozen={**network.frozen, **(frozen or {})},
    )
