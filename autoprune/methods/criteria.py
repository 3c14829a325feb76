"""Baselines that score every channel once: filter norms, geometric median, Taylor expansion, rank of feature maps.

Each says of every channel how much it matters; widths are uniform, or follow from one threshold for all groups
(`allocation`), whichever the paper is closer to. A channel of several layers, as in a residual stream, is one channel
with one score: for what is read off weights its filter is the concatenation of the filters of all its producers, for
Taylor one gate closes it for all its readers. What merely follows (batch norms, depthwise convolutions) is not scored.

Measured on the CIFAR-10 ResNet-20-B at 50 % of the MACs, sliced and recalibrated on 512 images, no training, accuracy
in % on 1,000 hold-out images (the network has seen them: 100 % dense), block-internal channels / all channels:

    widths    uniform control  l1        l2       fpgm     taylor   hrank   orthoreg (512 images)
    uniform   51.8 / 51.6      51 / 43   55 / 41  51 / 43  51 / 32  53 / -  41 / -
    global                     50 / 41            49 / -   39 / 33          28 / 36

One structure each, so that 3 points are noise: inside blocks no criterion beats the control clearly, in residual
streams all lose to it, and thresholds without a normalisation, as in the papers of Taylor and OrthoReg, lose most.

Notation:
    N     channels of a group
    W_j   all weights that produce channel j
    V_j   all weights that read channel j
    L     mean cross-entropy of a batch, in eval mode
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autoprune.core.cost import FloatArray
from autoprune.core.seeds import generator
from autoprune.data.images import IntArray
from autoprune.errors import ConfigError
from autoprune.methods.activations import visit_maps
from autoprune.methods.allocation import (
    ALLOCATIONS,
    NORMALISATIONS,
    allocated,
    keep_highest,
    require_finite,
)
from autoprune.methods.base import Pruned, Subject
from autoprune.methods.filters import producer_filters
from autoprune.methods.gradients import add_by_channel, batch_gradients, inner_products, weight_names
from autoprune.methods.options import require_choice, unpublished
from autoprune.methods.registry import name_of
from autoprune.models.network import Role
from autoprune.models.reduction.selection import filter_norms, keep_best

#: FPGM's README prunes this share of every layer of its CIFAR ResNets, by distance alone.
_FPGM_RATE = 0.4


@dataclass(frozen=True)
class Criterion:
    """A score per channel; the kept channels of a group are those of its highest scores.

    Attributes:
        allocation: `uniform` (one share off every group) or `global` (one threshold for all groups, bisected to the
            budget; no group falls below 5 % on its account).
        normalised_by: what a group's scores are divided by where the allocation is global: their `mean`, their L2
            `norm`, or `none`.
        as_published: whether the published rate replaces the budget; an error where the paper has no single one.
    """

    source: ClassVar[str]
    trains: ClassVar[bool] = False

    allocation: str = "uniform"
    normalised_by: str = "mean"
    as_published: bool = False

    def __post_init__(self) -> None:
        name = name_of(self)
        require_choice(self.allocation, ALLOCATIONS, what=f"The option 'allocation' of {name}")
        require_choice(self.normalised_by, NORMALISATIONS, what=f"The option 'normalised_by' of {name}")
        self._require_published()

    def scores(self, subject: Subject) -> list[FloatArray]:
        """Returns per group (N,) scores of at least 0, higher is better."""
        raise NotImplementedError

    def prune(self, subject: Subject) -> Pruned:
        """Returns the channels of the highest scores, on the budget."""
        scores = self.scores(subject)
        require_finite(subject.space, scores)
        widths = allocated(subject.space, scores, allocation=self.allocation, normalised_by=self.normalised_by)
        return Pruned(keep_highest(scores, widths.widths), subject.model, facts={"allocation": self.allocation})

    def _require_published(self) -> None:
        if self.as_published:
            raise unpublished(f"{name_of(self)} has no published setting without a budget.")


@dataclass(frozen=True)
class L1(Criterion):
    """The sum of absolute weights of a filter, |W_j|_1; over all producers of the channel.

    The paper chooses a ratio per layer by hand, from the sensitivity of each layer, and one for the layers of a
    ResNet's stage; uniform widths stand in for that.
    """

    source = "Li et al. 2017, Pruning Filters for Efficient ConvNets; uniform widths in place of ratios by hand [OURS]"

    def scores(self, subject: Subject) -> list[FloatArray]:
        """Returns the L1 norms."""
        return [np.abs(rows).sum(1) for rows in _filters(subject)]


@dataclass(frozen=True)
class L2(Criterion):
    """The Euclidean norm of a filter, |W_j|_2, at one rate for all layers; over all producers of the channel.

    SFP prunes softly while it trains; the criterion alone is applied here, once. The rate differs between the networks
    of the paper, so there is no published setting.
    """

    source = "Criterion of He et al. 2018, Soft Filter Pruning (SFP), applied once and not while training [OURS]"

    def scores(self, subject: Subject) -> list[FloatArray]:
        """Returns the L2 norms."""
        return [filter_norms(subject.model, subject.network, group) for group in range(len(subject.network.groups))]


@dataclass(frozen=True)
class Fpgm(Criterion):
    """The sum of Euclidean distances of a filter to all others of its group: sum_i |W_j - W_i|_2.

    The filter nearest to the geometric median, of the least sum, is what the others can stand in for. The paper prunes
    softly while it trains; the criterion alone is applied here, once, with `as_published`, too.

    Attributes:
        rate: share of every group that `as_published` prunes, rounded down to channels, without regard to a budget.
    """

    source = "He et al. 2019, Filter Pruning via Geometric Median (FPGM), applied once and not while training [OURS]"

    rate: float = _FPGM_RATE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate < 1:
            raise ConfigError(f"The option 'rate' of {name_of(self)} is {self.rate!r}. Write a share in [0, 1).")

    def scores(self, subject: Subject) -> list[FloatArray]:
        """Returns the sums of distances."""
        return [distance_sums(rows) for rows in _filters(subject)]

    def prune(self, subject: Subject) -> Pruned:
        """Returns the channels farthest from the others, on the budget or at the published rate."""
        if not self.as_published:
            return super().prune(subject)
        scores = self.scores(subject)
        require_finite(subject.space, scores)
        widths = [len(row) - int(self.rate * len(row)) for row in scores]
        return Pruned(keep_highest(scores, widths), subject.model, facts={"rate": self.rate})

    def _require_published(self) -> None:
        """There is a published rate."""


@dataclass(frozen=True)
class Taylor(Criterion):
    """The squared effect of closing a channel, to first order: mean over batches of (dL/dm_j)^2 at m_j = 1.

    m_j is a gate on what all consumers read of channel j, so m_j = 0 is exactly the network without the channel, and
    dL/dm_j is the sum over the channel's activation of activation times gradient. A layer is linear in what it reads:
    the gate's gradient is <V_j, dL/dV_j>, and no activation need be looked at.

    The paper ranks globally and without a normalisation, and prunes a little at a time while it trains; here once.

    Attributes:
        images: training images that are looked at, at most.
        batch_size: images per gradient [OURS]; the smaller, the less do gradients cancel out.
    """

    source = "Molchanov et al. 2019, Importance Estimation (Taylor, first order, gates), once and not iterated [OURS]"

    allocation: str = "global"
    normalised_by: str = "none"
    images: int = 512
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(self, images=self.images, batch_size=self.batch_size)

    def scores(self, subject: Subject) -> list[FloatArray]:
        """Returns the mean squared gate gradients."""
        totals = [np.zeros(group.width) for group in subject.network.groups]
        names = weight_names(subject.network, Role.CONSUMES)
        chosen = _seen(subject, self.images)
        for weights, gradients, share in batch_gradients(subject, names, chosen, self.batch_size):
            gates = inner_products(subject.network, Role.CONSUMES, weights, gradients)
            totals = [total + share * gate**2 for total, gate in zip(totals, gates, strict=True)]
        return totals


@dataclass(frozen=True)
class HRank(Criterion):
    """The mean rank over images of a channel's feature map behind the ReLU, as a matrix of its rows and columns.

    The paper sets the ratio of every layer by hand; uniform widths stand in for that. Groups without a map (and those
    whose maps have one position, such as hidden linear layers) are ordered by filter norm [OURS]. A residual stream
    is looked at where it is first rectified, behind the stem or the block that opens its stage.

    Attributes:
        images: training images that are looked at; the released code takes 5 batches of 128.
    """

    source = "Lin et al. 2020, HRank; uniform widths in place of ratios by hand [OURS]"

    images: int = 640

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(self, images=self.images)

    def scores(self, subject: Subject) -> list[FloatArray]:
        """Returns the mean ranks."""
        chosen = _seen(subject, self.images)
        images = subject.data.train.take(chosen).to(subject.device)
        totals: dict[int, FloatArray] = {}

        def visit(group: int, _place: int, maps: Tensor) -> None:
            if maps.shape[2] > 1:
                ranks = map_ranks(maps, aspect=images.shape[2] / images.shape[3])
                totals[group] = totals.get(group, 0.0) + ranks.sum(0).double().cpu().numpy()

        visit_maps(subject.model, subject.network, images, visit)
        return [
            totals[index] / len(chosen) if index in totals else filter_norms(subject.model, subject.network, index)
            for index in range(len(subject.network.groups))
        ]


@dataclass(frozen=True)
class OrthoFisher(Criterion):
    """The squared inner product of a filter and its mean gradient, <W_j, mean dL/dW_j>^2, bias included.

    OrthoReg makes the filters of a layer orthogonal for some epochs before this is measured (the regulariser is
    `orthoreg.OrthoReg`), ranks globally without a normalisation, and leaves at least 5 % of every layer. Several
    producers of one channel add up within the square [OURS].

    Attributes:
        images: training images that the gradient is averaged over, at most.
        batch_size: images per step of the average; it does not change the result.
    """

    source = "Importance of OrthoReg 2020 (arXiv 2009.05014, released code); several producers added up [OURS]"

    allocation: str = "global"
    normalised_by: str = "none"
    images: int = 10_000
    batch_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive(self, images=self.images, batch_size=self.batch_size)

    def scores(self, subject: Subject) -> list[FloatArray]:
        """Returns the squared inner products.

        Eval mode matters: with batch statistics the loss does not change with a filter's scale, and all would be zero.
        """
        network = subject.network
        biases = {call.bias: network.channels[call.output] for call in network.calls if call.bias is not None}
        names = (*weight_names(network, Role.PRODUCES), *biases)
        totals = [np.zeros(group.width) for group in network.groups]
        chosen = _seen(subject, self.images)
        for weights, gradients, share in batch_gradients(subject, names, chosen, self.batch_size):
            # The weights stay, so that the mean of inner products is the inner product with the mean gradient.
            parts = inner_products(network, Role.PRODUCES, weights, gradients)
            for name, layout in biases.items():
                add_by_channel(parts, layout, weights[name] * gradients[name])
            totals = [total + share * part for total, part in zip(totals, parts, strict=True)]
        return [total**2 for total in totals]


@dataclass(frozen=True)
class Uniform:
    """One share off every group; the channels that are missed most stay. The control of every comparison.

    Attributes:
        as_published: not possible, it is no published method.
    """

    source: ClassVar[str] = "Control: uniform widths, channels by elimination [OURS]"
    trains: ClassVar[bool] = False

    as_published: bool = False

    def __post_init__(self) -> None:
        if self.as_published:
            raise unpublished(f"{name_of(self)} has no published setting without a budget.")

    def prune(self, subject: Subject) -> Pruned:
        """Returns uniform widths on the budget."""
        return Pruned(keep_best(subject.rankings, subject.space.uniform().widths), subject.model)


def distance_sums(rows: FloatArray) -> FloatArray:
    """Returns (N,) the sum of Euclidean distances of each of (N, d) rows to the others."""
    # Not by the Gram matrix: near-identical filters, the ones that matter, would lose all digits.
    points = torch.from_numpy(rows)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    sums: FloatArray = distances.sum(1).numpy()
    return sums


def map_ranks(maps: Tensor, *, aspect: float) -> Tensor:
    """Returns (B, N) the rank of each map.

    Args:
        maps: (B, N, P) values, row after row.
        aspect: height over width of the images; maps are as elongated. Those that are not count as one row.
    """
    positions = maps.shape[2]
    height = max(1, round((positions * aspect) ** 0.5))
    if positions % height:
        height = 1
    ranks: Tensor = torch.linalg.matrix_rank(maps.float().reshape(*maps.shape[:2], height, positions // height))
    return ranks


def _require_positive(method: Criterion, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"The option {name!r} of {name_of(method)} is {value}. Write at least 1.")


def _filters(subject: Subject) -> list[FloatArray]:
    return producer_filters(subject.model, subject.network, range(len(subject.network.groups)))


def _seen(subject: Subject, count: int) -> IntArray:
    """Returns positions of at most `count` training images: those of the calibration, then random others."""
    known = subject.calibration_indices
    others = np.setdiff1d(subject.training, known)
    more = min(max(0, count - len(known)), len(others))
    return np.concatenate([known[:count], generator(subject.seed, "seen").choice(others, more, replace=False)])
