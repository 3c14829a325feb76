"""The state of one training: what a step changes, and what a checkpoint holds of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.devices import gpu_module, is_gpu
from autoprune.errors import DivergenceError
from autoprune.tasks.base import Objective, Task
from autoprune.training.backward import overwriting_named
from autoprune.training.hooks import Hook, TrainingState
from autoprune.training.kernels import Loss, training_layout, training_precision, without_gradient
from autoprune.training.recipe import Recipe
from autoprune.training.team import Team

#: Steps between looks at the loss on a GPU: every look waits for the device.
_LOOK_EVERY = 50


class Run:
    """The state of one training: `resume`, `begin`, then `step` until `total` are done; `close` it, however it ends.

    Attributes:
        device: where it computes.
        done: optimiser steps so far, those before a resumption included.
        total: how many there will be.
    """

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
        """Moves the networks to the device and chooses layout and precision.

        Args:
            model: what is trained.
            teacher: whose outputs are distilled.
            recipe: how.
            hooks: what takes part.
            task: what the network learns.
            count: number of training images.
            device: where to compute.
            probes: a few images and their targets, which tell what kernels are the fastest.
            chance: what augmentation draws from, a part of the state.
        """
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
        self._probe = self._probed(*probes)
        self._half = training_precision(self._probe, model, probes[0]) if recipe.mixed_precision else None
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

    @property
    def precision(self) -> str:
        """What forwards and gradients are computed in: `float32`, `bfloat16` or `float16`."""
        return str(self._half or torch.float32).removeprefix("torch.")

    def begin(self, team: Team | None) -> None:
        """Puts the model into training mode, joins it with those of a team, lets the hooks attach what they need."""
        self._model.train()
        if team is not None:
            idle = without_gradient(self._probe, self._model, self.device)
            self._forward = team.joined(self._model, self.device, idle=idle)
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
        """Takes one optimiser step.

        Raises:
            DivergenceError: the loss is not finite; on a GPU it is looked at now and then.
            ModelError: the forward overwrites in place what the backward needs.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = self._recipe.rate(self.done, images=self._count)
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(inputs.contiguous(memory_format=self._layout), targets)
        with overwriting_named("do without training"):
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
        """Returns the mean loss of the last epoch, 0 without a step.

        Raises:
            DivergenceError: it is not finite.
        """
        if not self._losses:
            return 0.0
        mean = torch.stack(list(self._losses)).mean()
        self._require_finite(mean)
        return float(mean)

    def require_finite_weights(self) -> None:
        """Checks the network.

        Raises:
            DivergenceError: a weight or statistic is not finite.
        """
        for name, value in self._model.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise DivergenceError(f"Training diverged: {name!r} is not finite. Lower the learning rate.")

    def close(self) -> None:
        """Ends the hooks; puts the model into eval mode and its usual memory layout, which safetensors needs."""
        for hook in self._hooks:
            hook.end()
        self._model.eval().to(memory_format=torch.contiguous_format)

    def _probed(self, inputs: Tensor, targets: Any) -> Loss:
        """Returns the loss of a network on a few images, as that of a step but without hooks."""
        laid_out = inputs.contiguous(memory_format=self._layout)
        return lambda model, precision: self._task.loss(
            model, laid_out, targets, teacher=self._teacher, objective=self._objective, precision=precision
        )

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


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    decayed = [value for value in model.parameters() if value.requires_grad and value.ndim > 1]
    plain = [value for value in model.parameters() if value.requires_grad and value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
