"""The training loop: SGD with distillation, in place, deterministic on the CPU for a given seed.

With checkpoints, a training that was killed goes on where the newest of them was written; on the CPU it ends with the
very bits of one that was not. What the loss is, the task says.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.core.seeds import derive_seed, generator
from autoprune.data.annotations import annotations_of, to_arrays
from autoprune.data.augment import augment_with_targets
from autoprune.data.images import Images, IntArray
from autoprune.data.preprocessing import NO_AUGMENTATION, Augmentation
from autoprune.devices import gpu_module, is_gpu
from autoprune.errors import DataError, DivergenceError
from autoprune.models.weights import state_fingerprint
from autoprune.tasks.base import Objective, Task
from autoprune.tasks.registry import CLASSIFICATION
from autoprune.training.checkpoints import CheckpointFolder, Checkpointing
from autoprune.training.feed import Vary, make_feed
from autoprune.training.hooks import Hook, TrainingState
from autoprune.training.kernels import Loss, training_layout, training_precision
from autoprune.training.recipe import Recipe
from autoprune.training.team import Team

#: Steps between looks at the loss on a GPU: every look waits for the device.
_LOOK_EVERY = 50
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
    run = _Run(
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


class _Run:
    """The state of one training."""

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module | None,
        recipe: Recipe,
        hooks: Sequence[Hook],
        *,
        task: Task,
        count: int,
        device: torch.device,
        probes: tuple[Tensor, Any],
        chance: torch.Generator,
    ) -> None:
        self.device = device
        self._task = task
        self._objective = Objective(recipe.distillation, recipe.temperature, recipe.label_smoothing)
        self.done = 0
        self.total = recipe.steps(count)
        self._per_epoch = count / min(recipe.batch_size, count)
        self._chance = chance
        self._model = self._forward = model.to(device)
        self._teacher = None if teacher is None or recipe.distillation == 0 else teacher.to(device).eval()
        self._recipe = recipe
        self._count = count
        self._on_gpu = is_gpu(device)
        self._layout = training_layout(self._model, probes[0])
        self._model.to(memory_format=self._layout)
        self._half = training_precision(self._probed(*probes), model, probes[0]) if recipe.mixed_precision else None
        # float16 gradients underflow without scaling; bfloat16 has float32's range.
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._half is torch.float16)
        self._optimiser = torch.optim.SGD(
            _parameter_groups(model, recipe.weight_decay),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
        )
        self._hooks = tuple(hooks)
        self._losses: deque[Tensor] = deque(maxlen=max(1, round(self._per_epoch)))

    def _probed(self, inputs: Tensor, targets: Any) -> Loss:
        """Returns the loss of a network on a few images, as that of a step but without hooks."""
        laid_out = inputs.contiguous(memory_format=self._layout)
        return lambda model, precision: self._task.loss(
            model, laid_out, targets, teacher=self._teacher, objective=self._objective, precision=precision
        )

    @property
    def precision(self) -> str:
        """What forwards and gradients are computed in: `float32`, `bfloat16` or `float16`."""
        return str(self._half or torch.float32).removeprefix("torch.")

    def begin(self, team: Team | None) -> None:
        """Puts the model into training mode, joins it with those of a team, lets the hooks attach what they need."""
        self._model.train()
        if team is not None:
            self._forward = team.joined(self._model, self.device)
        state = TrainingState(self._model, self._optimiser, self._recipe.epochs, self.device, self._teacher)
        for hook in self._hooks:
            hook.begin(state)

    @property
    def ended_epoch(self) -> int | None:
        """The whole epoch (from 1) that the last step has ended, None if it is amid one.

        Epochs end at the nearest step: of 100 images in batches of 32, 3.125 steps each, at the steps 3, 6, 9, 12, 16.
        """
        epoch = round(self.done / self._per_epoch)
        return epoch if epoch >= 1 and round(epoch * self._per_epoch) == self.done else None

    def end_epoch(self, epoch: int) -> None:
        """Lets the hooks change the network."""
        for hook in self._hooks:
            hook.epoch_ended(epoch)

    def is_due(self, every_steps: int | None) -> bool:
        """Returns whether a checkpoint is to be written after the last step."""
        often = every_steps is not None and self.done % every_steps == 0
        return often or self.done == self.total or self.ended_epoch is not None

    def state(self) -> dict[str, Any]:
        """Returns all that decides how the training goes on."""
        return {
            "model": dict(self._model.state_dict()),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "hooks": [hook.state_dict() for hook in self._hooks],
            "augmentation": self._chance.get_state(),
            "torch": torch.get_rng_state(),
            "gpu": gpu_module(self.device).get_rng_state(self.device) if self._on_gpu else None,
            "losses": list(self._losses),
            "precision": self.precision,
            "done": self.done,
        }

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Puts back what `state` returned; does nothing without it."""
        if state is None:
            return
        self._model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        for parameter, kept in self._optimiser.state.items():
            if kept.get("momentum_buffer") is not None:
                # In the parameter's own memory layout again: steps on two layouts take the slow path of a GPU.
                kept["momentum_buffer"] = torch.empty_like(parameter).copy_(kept["momentum_buffer"])
        # What was begun in float32 on a CPU, before there was another choice or on another one, goes on in it.
        if not self._on_gpu and state.get("precision", "float32") == "float32":
            self._half = None
        # Another device may need no scaling, or have had none.
        if state["scaler"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        for hook, remembered in zip(self._hooks, state["hooks"], strict=True):
            hook.load_state_dict(remembered)
        self._chance.set_state(state["augmentation"])
        torch.set_rng_state(state["torch"])
        if self._on_gpu and state.get("gpu") is not None:
            gpu_module(self.device).set_rng_state(state["gpu"], self.device)
        self._losses.extend(loss.to(self.device) for loss in state["losses"])
        self.done = int(state["done"])

    def reseed(self, seed: int) -> None:
        """Draws anew: a checkpoint tells what the leader of a team draws next, and the others are to draw otherwise."""
        self._chance.manual_seed(seed)
        torch.manual_seed(seed)

    def step(self, inputs: Tensor, targets: Any) -> None:
        """Takes one optimiser step."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._recipe.rate(self.done, images=self._count)
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(inputs.contiguous(memory_format=self._layout), targets)
        torch.autograd.backward(self._scaler.scale(loss))
        if self._hooks or np.isfinite(self._recipe.gradient_clip):
            self._scaler.unscale_(self._optimiser)
        for hook in self._hooks:
            hook.gradients_ready()
        if np.isfinite(self._recipe.gradient_clip):
            nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.gradient_clip)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self.done += 1
        self._losses.append(loss.detach())
        if not self._on_gpu or self.done % _LOOK_EVERY == 0:
            self._require_finite(loss)

    def mean_loss(self) -> float:
        """Returns the mean loss of the last epoch."""
        if not self._losses:
            return 0.0
        mean = torch.stack(list(self._losses)).mean()
        self._require_finite(mean)
        return float(mean)

    def require_finite_weights(self) -> None:
        """Raises `DivergenceError` if a weight or statistic is not finite."""
        for name, value in self._model.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise DivergenceError(f"Training diverged: {name!r} is not finite. Lower the learning rate.")

    def close(self) -> None:
        """Ends the hooks; puts the model into eval mode and its usual memory layout, which safetensors needs."""
        for hook in self._hooks:
            hook.end()
        self._model.eval().to(memory_format=torch.contiguous_format)

    def _loss(self, inputs: Tensor, targets: Any) -> Tensor:
        precision = torch.autocast(self.device.type, dtype=self._half, enabled=self._half is not None)
        loss = self._task.loss(
            self._forward,
            inputs,
            targets,
            teacher=self._teacher,
            objective=self._objective,
            precision=precision,
        )
        for hook in self._hooks:
            penalty = hook.penalty()
            loss = loss if penalty is None else loss + penalty
        return loss

    def _require_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise DivergenceError(
                f"Training diverged: the loss is {float(loss.detach())} after {self.done} of {self.total} steps. "
                f"Lower the learning rate ({self._recipe.learning_rate:g})."
            )


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


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    decayed = [value for value in model.parameters() if value.requires_grad and value.ndim > 1]
    plain = [value for value in model.parameters() if value.requires_grad and value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


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
