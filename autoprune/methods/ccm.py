"""CCM-LRR's selection: channels whose rows the nuclear norm of a feature map misses most, down to a cumulative share.

Wang et al. 2023 ("CCM-LRR", correlation-matrix loss and low-rank selection). Its released code scores channels by the
channel independence of CHIP (Sui et al. 2021) and keeps the highest until they add up to a share theta of the total;
the PCA that the abstract speaks of is not in the code (`pca` is our reading of it).

The score needs no singular value decomposition per channel [OURS]. With A = U diag(sigma) V^T, zeroing row j multiplies
det(A A^T + t) by g_j(t) = sum_i u_ji^2 t / (sigma_i^2 + t), left null vectors counting with sigma = 0. Writing
sqrt(x) = 1/pi * integral over t > 0 of x / (x + t) dt / sqrt(t) and integrating by parts,

    CI_j = ||A||_* - ||A_j||_* = -1/pi * integral over s > 0 of log g_j(s^2) ds,

so that one eigendecomposition a map serves all of its channels.

Notation:
    A       (N, P)  one group's feature map of one image, A_j the same with row j zeroed
    ||.||_* nuclear norm: sum of singular values sigma
    CI_j    channel independence, in [0, |a_j|]; |a_j| where row j is orthogonal to all others, 0 where it is zero
    theta   share of a group's independence that is kept
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autoprune.core.cost import FloatArray
from autoprune.core.seeds import derive_seed, generator
from autoprune.data.augment import augment
from autoprune.errors import ConfigError
from autoprune.methods.activations import visit_maps
from autoprune.methods.allocation import keep_highest, require_finite
from autoprune.methods.base import Pruned, Subject
from autoprune.models.network import LayerKind, TracedNetwork
from autoprune.models.reduction.selection import filter_norms
from autoprune.strategies.heuristics import bisected

#: Trapezoidal rule over log(s): its error falls as exp(-pi^2 / step), here 3e-9.
_STEP = 0.5
#: Nodes reach from exp(_LOW) to exp(_HIGH) times sigma_1; the integrand falls as s below and as s^-3 above.
_LOW, _HIGH = -21.0, 8.0
#: Squared singular values below this share of the largest are null.
_VANISHED = 1e-13
#: Elements of the largest float64 array at a time: 8 MiB.
_BLOCK = 1 << 20
#: Images per forward pass: the published code's batch.
_BATCH = 128
#: Decimals to which the published code rounds maps.
_DECIMALS = 4


def channel_independence(maps: Tensor) -> Tensor:
    """Returns (B, N) float64 CI of every row of every (N, P) matrix of `maps` (B, N, P), in blocks of bounded memory.

    Agrees with one singular value decomposition per row, in float64, to 1e-7 of the largest singular value.
    """
    count, rows, positions = maps.shape
    size = rows * max(positions, rows if rows <= positions else 0, _nodes(maps).numel())
    if count == 0:
        return maps.new_zeros(0, rows, dtype=torch.float64)
    return torch.cat([_independence(block.double()) for block in torch.split(maps, max(1, _BLOCK // size))])


def _nodes(like: Tensor) -> Tensor:
    return torch.arange(_LOW, _HIGH, _STEP, dtype=torch.float64, device=like.device).exp()


def _independence(a: Tensor) -> Tensor:
    """Returns (B, N) for (B, N, P) float64."""
    rows, positions = a.shape[1:]
    # The smaller of both Gram matrices; its eigenvalues are the squared singular values.
    if rows <= positions:
        gram = a @ a.transpose(1, 2)
        norms = gram.diagonal(dim1=1, dim2=2)
        squares, vectors = torch.linalg.eigh(gram)
        share = vectors.square()
        null = torch.zeros_like(a[:, :, 0])
    else:
        norms = a.square().sum(2)
        squares, right = torch.linalg.eigh(a.transpose(1, 2) @ a)
        alive = squares > _VANISHED * squares[:, -1:]
        inverse = torch.where(alive, squares.clamp_min(1e-300).reciprocal(), torch.zeros_like(squares))
        share = (a @ right).square() * inverse[:, None]
        null = (1 - share.sum(2)).clamp_min(0)
    squares = squares.clamp_min(0)
    scale = torch.where(squares[:, -1] > 0, squares[:, -1], torch.ones_like(squares[:, -1])).sqrt()
    s = scale[:, None] * _nodes(a)
    weights = s.square()[:, None] / (squares[:, :, None] + s.square()[:, None])
    # From below by its value if all of row j lay in the first singular vector: rounding must not reach the logarithm.
    ratio = torch.maximum(share @ weights + null[:, :, None], weights[:, -1:])
    # log g falls off as -|a_j|^2 / s^2 only. Adding log(1 + |a_j|^2 / s^2), whose integral is pi |a_j|, leaves a tail
    # that a few nodes exhaust.
    rest = (ratio * (1 + norms[:, :, None] / s.square()[:, None])).log()
    integral = (rest @ s[:, :, None])[:, :, 0] * _STEP
    found = norms.sqrt() - integral / math.pi
    return torch.where(norms > 0, found.clamp_min(0), torch.zeros_like(found))


def kept_count(independence: FloatArray, theta: float) -> int:
    """Returns how many of the (N,) highest values it takes to exceed a share theta of their sum, the last included.

    Strictly greater, as published: at theta = 1, and where all values are 0, everything is kept.
    """
    cumulative = np.cumsum(np.sort(independence)[::-1])
    return min(len(independence), 1 + int((cumulative <= theta * cumulative[-1]).sum()))


@dataclass(frozen=True, slots=False)
class ChannelIndependence:
    """CCM-LRR's selection by channel independence with one cumulative threshold for all groups.

    With a budget, theta is bisected; independence is measured once. The score of a group of several layers (a residual
    stream) is the mean over its maps (after the stem, after every block) of the independence divided by the map's sum
    [OURS]. The published code instead selects at every block's end anew and centre-pads or crops the shortcut to
    whatever width results, so that channels of the identity are added to unrelated ones, and slices a
    block's first convolution by the selection of the convolution before it, across the addition. That is no
    function of the dense network and is not reproduced. Maps of one position (hidden linear layers) have rank 1; there
    the images of a batch take the place of positions [OURS].

    `as_published` keeps theta fixed and ignores the budget, augments the images, rounds maps to four decimals, starts
    batch norms anew, leaves groups without a convolution and the group of the last convolution whole (VGG's 13th
    layer, the last stage of a ResNet in the scope `coupled`). It is the published procedure for plain networks, and
    for the convolutions inside residual blocks in the scope `internal`, where streams stay whole: the published
    ResNets lose channels there, too, so their rows of the table are out of reach.

    The published code scores on training images, and so does this; it picks its best epoch on test images.

    Attributes:
        theta: share of a group's independence that is kept, only read if `as_published`; 0.6 to 0.9 are published.
        images: of the training set, 5 batches of 128 as published; fewer if there are fewer. On CIFAR-10 ResNet-56-A
            (inside blocks, 50 % of the FLOPs) 128 rank channels almost alike: Spearman 0.986 with the ranks of all
            640, widths 0.1 channels apart, 96 % of the kept channels the same; 32 images: 0.95 and 92 %.
        as_published: see above.
    """

    source: ClassVar[str] = "CCM-LRR (Wang et al. 2023), released code; sums over residual streams are ours [OURS]"
    trains: ClassVar[bool] = False

    theta: float = 0.8
    images: int = 640
    as_published: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.theta < 1:
            raise ConfigError(f"The option 'theta' of ccm is {self.theta:g}. Write a share between 0 and 1.")
        if self.images < 1:
            raise ConfigError(
                f"The option 'images' of ccm is {self.images}. Write how many images to read, such as 640."
            )

    def prune(self, subject: Subject) -> Pruned:
        """Returns the most independent channels."""
        scores = self.scores(subject)
        require_finite(subject.space, scores)
        if self.as_published:
            whole = _left_whole(subject.network)
            widths = [len(row) if index in whole else kept_count(row, self.theta) for index, row in enumerate(scores)]
        else:
            widths = list(bisected(subject.space, lambda theta: _wished(scores, theta)))
        shares = [
            float(np.sort(row)[::-1][:width].sum() / row.sum()) if row.sum() > 0 else 1.0
            for row, width in zip(scores, widths, strict=True)
        ]
        return Pruned(
            keep_highest(scores, widths),
            subject.model,
            fresh_norms=self.as_published,
            facts={
                "smallest share of independence": round(min(shares), 4),
                "mean share of independence": round(sum(shares) / len(shares), 4),
                **({"theta": self.theta} if self.as_published else {}),
            },
        )

    def scores(self, subject: Subject) -> list[FloatArray]:
        """Returns per group (N,) mean independence, divided by its sum; all zeros where every map is zero."""
        images = self._images(subject)
        sums: dict[tuple[int, int], Tensor] = {}
        batches = math.ceil(len(images) / _BATCH)

        def visit(group: int, place: int, maps: Tensor) -> None:
            maps = maps.permute(2, 1, 0) if maps.shape[2] == 1 else maps
            if self.as_published:
                maps = maps.round(decimals=_DECIMALS)
            found = channel_independence(maps).sum(0).cpu()
            sums[group, place] = sums.get((group, place), torch.zeros_like(found)) + found

        for batch in range(batches):
            block = images[batch * _BATCH : (batch + 1) * _BATCH].to(subject.device)
            visit_maps(subject.model, subject.network, block, visit, every_place=True, batch=_BATCH)
            subject.progress(batch + 1, batches)
        scores = []
        for index in range(len(subject.network.groups)):
            places = [_normalised(found.numpy()) for (group, _), found in sorted(sums.items()) if group == index]
            # Groups of which no map can be seen (a weight that is no layer's) go by the size of their filters.
            scores.append(
                np.mean(places, axis=0) if places else _normalised(filter_norms(subject.model, subject.network, index))
            )
        return scores

    def _images(self, subject: Subject) -> Tensor:
        count = min(self.images, len(subject.training))
        chosen = generator(subject.seed, "ccm").permutation(subject.training)[:count]
        images = subject.data.train.take(chosen)
        if not self.as_published:
            return images
        chance = torch.Generator().manual_seed(derive_seed(subject.seed, "ccm", "augmentation"))
        return augment(images, subject.data.augmentation, chance)


def _wished(scores: Sequence[FloatArray], theta: float) -> FloatArray:
    # Groups of zeros alone carry nothing, whatever the published threshold makes of them.
    return np.array([kept_count(row, theta) if row.sum() > 0 else 1 for row in scores], dtype=np.float64)


def _normalised(independence: FloatArray) -> FloatArray:
    total = float(independence.sum())
    return independence / total if total > 0 else np.zeros_like(independence)


def _left_whole(network: TracedNetwork) -> set[int]:
    """Returns the groups that the published code does not cut: of no convolution, and of the last convolution."""
    convolutions = [set(network.channels[call.output].members) for call in network.calls if call.kind is LayerKind.CONV]
    convolved = set().union(*convolutions)
    last = convolutions[-1] if convolutions else set()
    return {index for index in range(len(network.groups)) if index not in convolved or index in last}
