"""PSAP: protective self-adaptive pruning. Each layer's own sparsity sets its rate, gradients protect its filters.

Of the paper (2023) only the abstract could be had; every formula here is ours.

Notation:
    l, j    group and channel; N_l channels, n_l weights
    m       (N_l,) gates in {0, 1} on what consumers read of a group
    WSR_l   weight sparsity ratio in [0, 1]; p_l = clip(lambda WSR_l, 0, 0.9) share of the group that is pruned
    s       (N_l,) score: |dL/dm| of open, max(0, -dL/dm) of closed gates, averaged over a pulse of mini-batches
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from autoprune.core.cost import FloatArray
from autoprune.core.seeds import derive_seed
from autoprune.errors import ConfigError
from autoprune.methods.allocation import require_choice
from autoprune.methods.base import Pruned, Subject
from autoprune.methods.gates import PROTECTIONS, ProtectedGates, Protection
from autoprune.methods.schedules import require_schedule
from autoprune.methods.softly import (
    GroupAxes,
    edit_count,
    largest_difference,
    refuse_published,
    steps_of,
    train_with,
    training_recipe,
)
from autoprune.methods.weight_sparsity import SPARSITIES, sparsity_ratios
from autoprune.models.surgery import cut
from autoprune.models.verify import masked
from autoprune.training.recipe import Recipe

#: Of a training from scratch: 10 of 200 epochs are dense (methods.md, 5.2).
_DENSE_SHARE = 0.05
_CHECKED = 64


@dataclass(frozen=True)
class Psap:
    """Prunes and restores filters while training, by each group's weight sparsity and the gradients of gates.

    PSAP (2023). Known from its abstract: before every pruning step a layer's ratio is set from its own weight sparsity
    ratio, and gradients are supervised so that important filters are protected and restored. [OURS]: everything
    else. Departures from our own first definition: gates multiply what consumers read rather than what batch norm
    puts out, because the derivative of ReLU at 0 is 0 and no closed gate before it would ever ask to be opened; filters
    behind a closed gate keep their weights (the shadow copy) rather than being zero, because the gradient of the gate
    of a zero filter says nothing of the filter that would come back. Such a network is the cut one to the last bit.
    Groups with several producers are ranked by the norm over all of them.

    Attributes:
        as_published: refused; the paper's constants could not be had.
        sparsity: `global` (share of weights below one quantile of |w| / rms of its layer), `absolute` (of |w|),
            `filter` (share of filters whose mean |w| is below alpha times the layer's).
        alpha: see `sparsity`.
        schedule: how the budget shrinks: const, linear, poly, exp, cosine.
        protect: `gate` (gradients of gates), `grad_norm` (literal: filters are zeroed, stay trainable, and raw
            gradient norms are compared, which batch norm inflates up to 316-fold for zero filters), `none`.
        pulse: mini-batches before an edit whose gradients count.
        kappa: standard deviations above the mean score of open channels that protect.
        rho: share of the closed gates, the best scored, that is reopened.
        prune_until: share of the training in which filters are pruned; gates are fixed after it.
        edits_per_epoch: pruning steps an epoch; at least 8 times a training.
        from_scratch: whether the copy is initialised anew and trains by the recipe of a new network.
        distillation: share of the dense network's divergence in the loss ([OURS]); not from scratch.
        learning_rate: at its peak; 0 for that of finetuning, or 0.1 from scratch.
        batch_size: images per step.
    """

    source: ClassVar[str] = (
        "PSAP 2023, abstract only: sparsity ratio, protection and schedule are ours [OURS]; nothing of it verified"
    )
    trains: ClassVar[bool] = True

    as_published: bool = False
    sparsity: str = "global"
    alpha: float = 0.5
    schedule: str = "exp"
    protect: str = "gate"
    pulse: int = 50
    kappa: float = 1.0
    rho: float = 0.1
    prune_until: float = 0.6
    edits_per_epoch: float = 1.0
    from_scratch: bool = False
    distillation: float = 0.9
    learning_rate: float = 0.0
    batch_size: int = 128

    def __post_init__(self) -> None:
        require_choice(self.sparsity, SPARSITIES, what="The option 'sparsity' of Psap")
        require_choice(self.protect, PROTECTIONS, what="The option 'protect' of Psap")
        require_schedule(self.schedule)
        if not 0 < self.prune_until <= 1:
            raise ConfigError(f"The option 'prune_until' of Psap is {self.prune_until!r}. Write a share in (0, 1].")
        if self.pulse < 1:
            raise ConfigError(f"The option 'pulse' of Psap is {self.pulse!r}. Write at least 1 mini-batch.")

    def prune(self, subject: Subject) -> Pruned:
        """Returns the trained network, in which no consumer reads a pruned channel.

        Raises:
            ConfigError: it is asked to run as published.
            DivergenceError: the training diverged.
        """
        refuse_published("PSAP", self.as_published)
        model = copy.deepcopy(subject.model)
        if self.from_scratch:
            initialise(model, seed=subject.seed)
        recipe = self._recipe(subject.epochs)
        hook = self.hook(subject, steps=steps_of(subject, recipe))
        facts: dict[str, float | int | str] = {}
        if subject.epochs > 0:
            distil = self.distillation > 0 and not self.from_scratch
            facts.update(train_with(subject, model, hook, recipe, distil=distil))
        hook.finish(model)
        kept = hook.kept
        sealed = masked(model, subject.network, kept).eval()
        images = subject.images[:_CHECKED]
        error = largest_difference(sealed, cut(sealed, subject.network, kept), images)
        facts.update(edits=hook.edited, restored=hook.restored, cut_error=error)
        # Consumers read nothing of a dropped channel, so adding its weights to any other changes nothing: addition and
        # slicing are one, and exact.
        clusters = tuple(
            np.where(np.isin(np.arange(group.width), index), np.arange(group.width), index[0])
            for group, index in zip(subject.network.groups, kept.indices, strict=True)
        )
        return Pruned(kept=kept, model=sealed, clusters=clusters, exact=True, facts=facts)

    def hook(self, subject: Subject, *, steps: int) -> ProtectedGates:
        """Returns what prunes during a training of so many steps."""
        return ProtectedGates(
            subject.network,
            subject.space,
            steps=steps,
            edits=edit_count(subject.epochs, self.edits_per_epoch),
            sparsity=self._sparsity,
            schedule=self.schedule,
            begin=_DENSE_SHARE if self.from_scratch else 0.0,
            until=self.prune_until,
            protection=Protection(self.protect, self.pulse, self.kappa, self.rho),
        )

    def _sparsity(self, model: nn.Module, groups: Sequence[GroupAxes], removed: float) -> FloatArray:
        return sparsity_ratios(model, groups, kind=self.sparsity, quantile=removed, alpha=self.alpha)

    def _recipe(self, epochs: float) -> Recipe:
        if not self.from_scratch:
            return training_recipe(
                epochs,
                learning_rate=self.learning_rate,
                batch_size=self.batch_size,
                distillation=self.distillation,
            )
        # SFP's recipe for CIFAR (rate 0.1, weight decay 5e-4) with a cosine instead of steps.
        return Recipe(
            epochs=epochs,
            learning_rate=self.learning_rate or 0.1,
            batch_size=self.batch_size,
            warmup_epochs=min(0.1 * epochs, 1.0),
            gradient_clip=5.0,
        )


def initialise(model: nn.Module, *, seed: int) -> None:
    """Gives every layer that knows how new random weights, without touching torch's global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        for module in model.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
