"""The training loop: SGD with distillation, in place, deterministic on the CPU for a given seed.

With checkpoints, a training that was killed goes on where the newest of them was written; on the CPU it ends with the
very bits of one that was not. What the loss is, the task says.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from autoprune.core.seeds import derive_seed, generator
from autoprune.data.annotations import annotations_of, to_arrays
from autoprune.data.augment import augment_with_targets
from autoprune.data.images import Images, IntArray
from autoprune.data.preprocessing import NO_AUGMENTATION, Augmentation
from autoprune.errors import DataError
from autoprune.models.zoo.weights import state_fingerprint
from autoprune.tasks.base import Task
from autoprune.tasks.registry import CLASSIFICATION
from autoprune.training.checkpoints import CheckpointFolder, Checkpointing
from autoprune.training.feed import Vary, make_feed
from autoprune.training.hooks import Hook
from autoprune.training.recipe import Recipe
from autoprune.training.run import Run
from autoprune.training.team import Team

#: Images that tell what kernels a network is trained by.
_PROBES = 2

OnEpoch = Callable[[int, float], None]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a training did.

    Attributes:
        steps: optimiser steps, those before a resumption included.
        epochs: passes over the images.
        images: images seen, with repetition.
        loss: mean over the last epoch (or less) of the training loss; 0 without steps.
        seconds: wall time of this call.
        precision: of forwards and gradients: `float32`, `bfloat16` or `float16`.
    """

    steps: int
    epochs: float
    images: int
    loss: float
    seconds: float
    precision: str = "float32"


def train(
    model: nn.Module,
    images: Images,
    indices: npt.ArrayLike,
    recipe: Recipe,
    *,
    seed: int,
    teacher: nn.Module | None = None,
    augmentation: Augmentation = NO_AUGMENTATION,
    device: str | torch.device = "cpu",
    hooks: Sequence[Hook] = (),
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    checkpoint: Checkpointing | None = None,
    team: Team | None = None,
    task: Task = CLASSIFICATION,
) -> TrainingReport:
    """Trains a model in place on the images at `indices`; leaves it in eval mode on the device.

    Dropout and hooks may draw from torch's global generator; its state is part of a checkpoint, and put back with it.
    What images loaded from a data set draw at random themselves is not.

    Args:
        model: what is trained.
        images: where `indices` point to.
        indices: (n,) positions of the training images.
        recipe: how.
        seed: of the order and the augmentation.
        teacher: whose outputs are distilled, in eval mode; moved to the device.
        augmentation: variation of the images.
        device: where to compute.
        hooks: what takes part in the training.
        on_epoch: called after every whole epoch, when the hooks are done, with its number (from 1) and mean loss; then
            a checkpoint is written.
        on_step: called after every step with its number (from 1) and the total.
        checkpoint: where checkpoints are left, and whence the training goes on if there is one; the weights that the
            model comes with do not matter then.
        team: the processes that call this together, all with the same arguments; None for this one alone.
        task: what the network learns.

    Raises:
        DataError: there is no image to train on.
        DivergenceError: the loss or a weight is not finite; the model is of no use then, its checkpoints are sound.
        RunError: the checkpoints cannot be read, or are of another training.
    """
    chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(chosen) == 0:
        raise DataError("There is no image to train on.")
    chance = torch.Generator().manual_seed(derive_seed(seed, "augmentation", *([team.rank] if team else [])))
    leads = team is None or team.leads
    feed = make_feed(images, chosen, torch.device(device))
    run = Run(
        model,
        teacher,
        recipe,
        hooks,
        task=task,
        count=len(chosen),
        device=torch.device(device),
        probes=next(iter(feed.batches([np.arange(min(_PROBES, len(chosen)))]))),
        chance=chance,
    )
    folder: CheckpointFolder | None = None
    if checkpoint is not None and leads:
        identity = _identity(model, images, chosen, recipe, seed=seed, teacher=teacher, hooks=hooks)
        folder = CheckpointFolder(checkpoint.directory, {**identity, "augmentation": repr(augmentation)})
    started = time.perf_counter()
    try:
        found = None if folder is None or checkpoint is None else folder.newest(anyhow=checkpoint.dispensable)
        run.resume(found if team is None else team.of_the_leader(found))
        if team is not None and not team.leads and run.done > 0:
            run.reseed(derive_seed(seed, "resumed", team.rank, run.done))
        run.begin(team)
        whole = islice(_orders(len(chosen), recipe, seed=seed), run.done, None)
        orders = whole if team is None else map(team.share, whole)
        for inputs, targets in feed.batches(orders, _variation(augmentation, chance)):
            run.step(inputs, targets)
            if on_step is not None and leads:
                on_step(run.done, run.total)
            epoch = run.ended_epoch
            if epoch is not None:
                run.end_epoch(epoch)
                if on_epoch is not None and leads:
                    on_epoch(epoch, run.mean_loss())
            if folder is not None and checkpoint is not None and run.is_due(checkpoint.every_steps):
                run.require_finite_weights()
                folder.save(run.state(), step=run.done)
    finally:
        run.close()
    seen = run.done * min(recipe.batch_size, len(chosen))
    loss = run.mean_loss()
    run.require_finite_weights()
    return TrainingReport(run.done, seen / len(chosen), seen, loss, time.perf_counter() - started, run.precision)


def _variation(augmentation: Augmentation, chance: torch.Generator) -> Vary:
    """Returns how a feed varies batches."""
    return lambda images, targets: augment_with_targets(images, targets, augmentation, chance)


def _identity(
    model: nn.Module,
    images: Images,
    chosen: IntArray,
    recipe: Recipe,
    *,
    seed: int,
    teacher: nn.Module | None,
    hooks: Sequence[Hook],
) -> dict[str, str | int | float | bool]:
    """Returns what tells this training from another: a checkpoint of that must not become this one's."""
    labels = np.ascontiguousarray(np.asarray(images.labels)[chosen])
    annotations = annotations_of(images)
    carried = to_arrays(None if annotations is None else annotations.select(chosen), "images").values()
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
    distils = teacher is not None and recipe.distillation > 0
    return {
        **asdict(recipe),
        "seed": seed,
        "number of images": len(chosen),
        "fingerprint of the images": _short_hash(
            chosen.tobytes(), labels.tobytes(), *(item.tobytes() for item in carried)
        ),
        "fingerprint of the layers": _short_hash(repr(shapes).encode()),
        "fingerprint of the teacher": state_fingerprint(teacher)[:16] if teacher is not None and distils else "none",
        "hooks": ", ".join(type(hook).__name__ for hook in hooks),
    }


def _short_hash(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _orders(count: int, recipe: Recipe, *, seed: int) -> Iterator[IntArray]:
    """Yields the positions of every step: random orders of all images, one after the other, cut into full batches."""
    rng = generator(seed, "order")
    size = min(recipe.batch_size, count)
    waiting = np.empty(0, dtype=np.int64)
    for _ in range(recipe.steps(count)):
        if len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(count)])
        yield waiting[:size]
        waiting = waiting[size:]
