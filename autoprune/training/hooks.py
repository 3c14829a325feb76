"""How a method takes part in a training: it adds to the loss, and changes the network between steps and epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class TrainingState:
    """What a hook may look at and change in place.

    Attributes:
        model: the network under training, on `device`.
        optimiser: SGD; `optimiser.state[parameter]["momentum_buffer"]` is a parameter's momentum after its first step.
        epochs: of the whole training; a fraction at the end is no epoch of its own.
        device: where the network is.
        teacher: whose outputs are distilled, in eval mode on `device`; not to be changed. None where nothing is.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    epochs: float
    device: torch.device
    teacher: nn.Module | None = None


class Hook:
    """Does nothing. Methods that train override what they need.

    A hook belongs to one training at a time. What it must remember beyond the network's weights goes through
    `state_dict`, so that a training that was killed resumes as if it had not been.
    """

    def begin(self, state: TrainingState) -> None:
        """The training begins or resumes; forward hooks are attached here."""

    def penalty(self) -> Tensor | None:
        """Returns a scalar to add to the loss of the batch whose forward has just run, None for nothing."""
        return None

    def gradients_ready(self) -> None:
        """The gradients of a step are there, unscaled and unclipped; the optimiser has not moved yet."""

    def epoch_ended(self, epoch: int) -> None:
        """A whole epoch is over, the first being 1; the network is in training mode."""

    def end(self) -> None:
        """The training is over or has failed: what `begin` attached is removed."""

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors, numbers, strings, lists and dictionaries of them: what `load_state_dict` puts back."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` returned at the end of an epoch; called before `begin`."""
