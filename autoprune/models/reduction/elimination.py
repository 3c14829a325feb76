"""Which channels a sequential reconstruction misses least: backward elimination on what consumers read.

A channel is dropped with all of its pixels under a kernel at once, the consumer's whole kernel is solved anew, and the
channel whose loss raises the consumer's squared error least goes first. This is the optimal brain surgeon (Hassibi and
Stork 1993, eq. 5) with blocks of weights and a consumer's own least-squares error in place of the training loss;
averaging over consumers relative to their outputs, and the ridge, are [OURS].

Notation:
    G   (d + 1, d + 1)  second moments of a consumer's patches with a one appended, damped
    P   (d + 1, d + 1)  G^-1 of what is left
    A   (d + 1, o)      the consumer's best kernel and bias on what is left
    S   (d + 1, d + 1)  A A^T; all that is needed of A, which may have many columns
    g                   the rows of one channel, a of them; dropping it adds trace(P_gg^-1 S_gg) to the error
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.models.cutting.folding import folded_weight
from autoprune.models.cutting.surgery import named_tensor
from autoprune.models.network import IndexArray, LayerCall, TracedNetwork
from autoprune.models.reduction.calibration import Calibration, sampled_inputs
from autoprune.models.watching.operations import OperationTap, layer_operands
from autoprune.tasks.detectors import raw_outputs

#: Damping of G relative to its mean diagonal. Towards 0 a channel counts by what no other channel can replace, towards
#: infinity by the norm of what reads it; in between lies what survives that the cut network's own activations differ
#: from those that G was gathered on (`experiments.benchmarks.zero_training` compares).
DAMPING = 0.1
#: Wider patches are judged by their pixels alone: of a 3x3 kernel over more than 128 channels.
WIDEST_PATCH = 1_152
#: Consumers of more inputs are not solved: the time grows with the cube.
WIDEST_CONSUMER = 1_152
#: Of as many channels and fewer one goes at a time, of more a share of one in as many.
ONE_BY_ONE = 128


@dataclass(frozen=True, eq=False)
class Consumer:
    """A layer and what it reads.

    Attributes:
        moments: (d + 1, d + 1) float64 second moments of its patches with a one appended.
        kernel: (d + 1, o) float64, the bias in the last row.
        damping: of G.
    """

    moments: Tensor
    kernel: Tensor
    damping: float = DAMPING

    @cached_property
    def damped(self) -> Tensor:
        """(d + 1, d + 1) G."""
        damped = self.moments.clone()
        damped.diagonal().add_((self.damping * damped.diagonal().mean()).clamp_min(1e-12))
        return damped

    @cached_property
    def inverse(self) -> Tensor:
        """(d + 1, d + 1) G^-1."""
        inverse: Tensor = torch.linalg.inv(self.damped)
        return inverse

    @cached_property
    def energy(self) -> Tensor:
        """The mean square of its output, over images and positions, summed over channels."""
        energy: Tensor = (self.kernel * (self.damped @ self.kernel)).sum()
        return energy.clamp_min(1e-300)


@dataclass(frozen=True, eq=False)
class Reader:
    """A consumer of one group.

    Attributes:
        consumer: the layer.
        rows: (N, a) which rows of its kernel read each channel of the group.
    """

    consumer: Consumer
    rows: Tensor


def elimination_order(readers: Sequence[Reader]) -> IndexArray | None:
    """Returns (N,) the channels of a group, those that are missed most first; None where a consumer is too wide.

    Of more than `ONE_BY_ONE` channels several go at a time, those that are missed least one by one.
    """
    if any(len(reader.consumer.moments) > WIDEST_CONSUMER + 1 for reader in readers):
        return None
    states = [_State(reader) for reader in readers]
    left, dropped = np.arange(len(readers[0].rows)), []
    while len(left) > 1:
        costs = torch.stack([state.costs() for state in states]).mean(0)
        going = costs.argsort(stable=True)[: -(-(len(left) - 1) // ONE_BY_ONE)].cpu().numpy()
        dropped.append(left[going])
        left = np.delete(left, going)
        for state in states:
            state.drop(going)
    return np.concatenate([left, *[going[::-1] for going in reversed(dropped)]]).astype(np.int64)


class _State:
    """A consumer that some channels of a group have been taken from.

    Only the rows of the group are followed, channel after channel: what a loss does to them depends on no others.
    """

    def __init__(self, reader: Reader) -> None:
        consumer, rows = reader.consumer, reader.rows.flatten()
        kernel = consumer.kernel[rows]
        self._a = reader.rows.shape[1]
        self._P = consumer.inverse[rows[:, None], rows]
        self._S = kernel @ kernel.T
        self._energy = consumer.energy

    def costs(self) -> Tensor:
        """Returns (n,) by what share of the consumer's output its error grows without each channel that is left."""
        if self._a == 1:
            return self._S.diagonal() / self._P.diagonal() / self._energy
        P, S = (
            item.reshape(-1, self._a, len(item) // self._a, self._a).diagonal(dim1=0, dim2=2).movedim(-1, 0)
            for item in (self._P, self._S)
        )
        solved: Tensor = torch.linalg.solve(P, S)
        return solved.diagonal(dim1=1, dim2=2).sum(1) / self._energy

    def drop(self, channels: IndexArray) -> None:
        """Takes channels away, by their places among those left; the kernel makes up for them as well as it can."""
        of_channel = torch.arange(len(self._P), device=self._P.device).view(-1, self._a)
        gone = of_channel[torch.from_numpy(channels)].flatten()
        stays = torch.ones(len(self._P), dtype=torch.bool, device=self._P.device)
        stays[gone] = False
        left = stays.nonzero().flatten()
        # A loses W A_g, so that S loses W S_g: and its transpose, and regains W S_gg W^T.
        rows = self._P[gone]
        W = torch.linalg.solve(rows[:, gone], rows[:, left]).T
        across = self._S[gone]
        lost = W @ (across[:, left] - 0.5 * across[:, gone] @ W.T)
        self._S = self._S[left][:, left].sub_(lost).sub_(lost.T)
        self._P = self._P[left][:, left].addmm_(W, rows[:, left], alpha=-1)


def readers_of(
    model: nn.Module, network: TracedNetwork, calibration: Calibration, images: Tensor, *, damping: float = DAMPING
) -> tuple[list[Reader], ...]:
    """Returns per group what its consumers make of it; nothing for consumers without statistics.

    Args:
        model: the dense network, in eval mode.
        network: its trace.
        calibration: its statistics on `images`.
        images: (B, C, H, W) the calibration images.
        damping: of every consumer.
    """
    patches = patch_moments(model, network, calibration, images)
    found: tuple[list[Reader], ...] = tuple([] for _ in network.groups)
    for call in network.calls:
        moments = patches.get(call.call, calibration.moments.get(call.call))
        if call.input is None or moments is None:
            continue
        layout = network.channels[call.input]
        weight = folded_weight(model, call).double()
        # Patches run pixel by pixel; without them every pixel of the kernel is an output of its own.
        pixels = weight.shape[2] if call.call in patches else 1
        kernel = weight.permute(2, 1, 0).flatten(0, 1) if pixels > 1 else weight.transpose(0, 1).flatten(1)
        consumer = Consumer(moments, torch.cat([kernel, kernel.new_zeros(1, kernel.shape[1])]), damping)
        for group in layout.members:
            places = layout.places(group, network.groups[group].width)
            rows = (places[:, None] + np.arange(pixels)[:, None] * len(layout.group)).reshape(len(places), -1)
            found[group].append(Reader(consumer, torch.from_numpy(rows).to(moments.device)))
    return found


@torch.no_grad()
def patch_moments(
    model: nn.Module, network: TracedNetwork, calibration: Calibration, images: Tensor, *, batch: int = 128
) -> dict[int, Tensor]:
    """Returns {call number: (d + 1, d + 1) float64 second moments of its patches at sampled positions, a one appended}.

    Left out are layers that read no channel of a group, and those with very wide patches.
    """
    gatherers = {
        call.call: _PatchGatherer(call, calibration.positions[call.call])
        for call in network.calls
        if call.input is not None
        and network.channels[call.input].members
        and call.call in calibration.positions
        and named_tensor(model, call.weight)[0].numel() <= WIDEST_PATCH
    }
    for start in range(0, len(images), batch):
        block = slice(start, start + batch)
        for gatherer in gatherers.values():
            gatherer.block = block
        with OperationTap(gatherers):
            raw_outputs(model, images[block])
    return {number: gatherer.moments() for number, gatherer in gatherers.items()}


class _PatchGatherer:
    """Adds up the second moments of a layer's patches while it runs.

    Attributes:
        block: the images of the forward pass under way.
    """

    def __init__(self, call: LayerCall, positions: Tensor) -> None:
        self.block = slice(0)
        self._call = call
        self._positions = positions
        self._sum: Tensor | None = None

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = layer_operands(func, args)
        assert operands is not None
        patches = sampled_inputs(self._call, args, operands.input, self._positions[self.block]).flatten(0, 1)
        patches = torch.cat([patches, patches.new_ones(len(patches), 1)], dim=1)
        share = (patches.T @ patches).double()
        self._sum = share if self._sum is None else self._sum + share
        return func(*args, **kwargs)

    def moments(self) -> Tensor:
        """Returns their mean."""
        assert self._sum is not None
        return self._sum / self._positions.numel()
