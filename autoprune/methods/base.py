"""What every pruning method reads and what it hands back.

A method decides which channels stay; how the consumers take over what the others carried is a separate choice, so that
any method can be followed by slicing, channel addition, least squares or sequential reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from autoprune.core.profile import ModelProfile
from autoprune.core.space import SearchSpace
from autoprune.data.bundle import DataBundle
from autoprune.models.cutting.surgery import Kept
from autoprune.models.network import IndexArray, TracedNetwork
from autoprune.models.reduction.calibration import Calibration
from autoprune.models.reduction.selection import Ranking

Progress = Callable[[float, float], None]


def _no_progress(_done: float, _total: float) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Subject:
    """A dense network and everything a method may know of it. The test set is not among it.

    Attributes:
        model: the dense network, in eval mode on `device`; a method that trains works on a copy.
        network: its trace, restricted to the scope.
        space: legal structures within the budget.
        calibration: statistics of the dense network on `images`.
        rankings: per group, the order of elimination, or of norms where these were asked for.
        profile: returns the statistics that heuristics read; gathered at its first call.
        images: (B, C, H, W) calibration images on `device`.
        data: the images; only `training` of `data.train` and `holdout` of `data.scoring` are to be read.
        calibration_indices: (B,) positions of `images` in `data.train`.
        training: (n,) positions in `data.train`, the hold-out excluded.
        holdout: (m,) positions in `data.scoring` that may score structures.
        epochs: of training that a method which trains may spend.
        device: where to compute.
        seed: of everything random.
        progress: called with (done, total) in any unit.
    """

    model: nn.Module
    network: TracedNetwork
    space: SearchSpace
    calibration: Calibration
    rankings: tuple[Ranking, ...]
    profile: Callable[[], ModelProfile]
    images: Tensor
    data: DataBundle
    calibration_indices: IndexArray
    training: IndexArray
    holdout: IndexArray
    epochs: float
    device: torch.device
    seed: int
    progress: Progress = field(default=_no_progress)


@dataclass(frozen=True, eq=False)
class Pruned:
    """What a method decided.

    Attributes:
        kept: the channels that stay.
        model: what is to be cut: the dense network, or one of the same shape that the method has trained.
        clusters: per group the (N,) representative, one of the kept channels, of every channel; None where the method
            forms no clusters. Channel addition needs them.
        fresh_norms: whether the batch norms of the cut network start anew instead of being inherited, as the
            published code of EPruner and CCM-LRR does.
        exact: whether channel addition leaves the outputs of `model` as they are; it is the default reduction then.
        facts: numbers worth reporting, such as `{"beta": 0.73}`; JSON values.
    """

    kept: Kept
    model: nn.Module
    clusters: tuple[IndexArray, ...] | None = None
    fresh_norms: bool = False
    exact: bool = False
    facts: Mapping[str, float | int | str] = field(default_factory=dict)


class Method(Protocol):
    """A pruning method; its implementations are frozen dataclasses whose fields are the method's own options.

    Attributes:
        source: paper and year, and what of it is ours ([OURS]) or could not be verified.
        trains: whether `prune` trains the network.
    """

    source: ClassVar[str]
    trains: ClassVar[bool]

    @property
    def as_published(self) -> bool:
        """Whether the published procedure runs, fixed knobs and known bugs included; the budget is not looked at."""
        ...

    def prune(self, subject: Subject) -> Pruned:
        """Returns which channels stay; within `subject.space`'s budget unless `as_published`."""
        ...
