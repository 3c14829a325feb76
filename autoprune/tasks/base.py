"""The seam between a task and everything else: trainings, searches and reports see losses and metrics, not outputs.

A batch is (inputs, targets): `inputs` (n, C, H, W) float32 on a device, `targets` whatever the images carry, (n,) class
indices, (n, H, W) of them, or one mapping of boxes an image. Only the task looks at targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError

Batches = Iterable[tuple[Tensor, Any]]
Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Objective:
    """What of a recipe a loss depends on.

    Attributes:
        distillation: share of the teacher's part in the loss, in [0, 1].
        temperature: softens both sides of a divergence, above 0.
        label_smoothing: in [0, 1).
    """

    distillation: float = 0.0
    temperature: float = 1.0
    label_smoothing: float = 0.0


class Meter(Protocol):
    """Adds up over batches what a network is measured by."""

    def add(self, model: nn.Module, inputs: Tensor, targets: Any) -> None:
        """Runs the network, in eval mode, on a batch."""
        ...

    def result(self) -> Metrics:
        """Returns `accuracy`, the task's metric in [0, 1], higher being better; `loss`; and whatever else there is."""
        ...


class Task(Protocol):
    """What a network is for. Implementations have no state, so that they travel to workers.

    Attributes:
        name: as `--task` spells it.
        reported: what people read the task's `accuracy` as, such as `accuracy`, `mAP@0.5` or `1 - top-3 error`.
        score: which of the numbers that `judge` returns candidates are compared by.
        targets: what images must carry: `labels`, `boxes`, `masks` or `nothing`.
        batch_size: images of a training step, where nobody says how many.
        learning_rate: of a training from scratch at that batch size, at its peak.
        gradient_clip: largest L2 norm of the whole gradient in such a training; infinity for no clipping.
        largest_batch: images that are measured at a time, at most.
        calibration_images: that reconstructions are fitted on, where nobody says how many.
        answers: what `served` puts out, for those who read it elsewhere.
    """

    name: ClassVar[str]
    score: ClassVar[str]
    targets: ClassVar[str]
    batch_size: ClassVar[int]
    learning_rate: ClassVar[float]
    gradient_clip: ClassVar[float]
    largest_batch: ClassVar[int]
    calibration_images: ClassVar[int]
    answers: ClassVar[str]

    @property
    def reported(self) -> str:
        """See the class."""
        ...

    def check_outputs(self, outputs: object, *, images: Tensor, classes: int, model: str, data: str) -> None:
        """Checks what `raw_outputs` gives for some images.

        Args:
            outputs: of a network in eval mode.
            images: (n, C, H, W), what they were made of.
            classes: of the data.
            model: for messages.
            data: for messages.

        Raises:
            ModelError: the network cannot do this task on these data.
        """
        ...

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Any,
        *,
        teacher: nn.Module | None,
        objective: Objective,
        precision: AbstractContextManager[Any],
    ) -> Tensor:
        """Returns the scalar to minimise.

        Args:
            model: in training mode.
            inputs: (n, C, H, W).
            targets: of the images.
            teacher: in eval mode; None where nothing is distilled.
            objective: how the parts are weighted.
            precision: what forwards run in.
        """
        ...

    def served(self, model: nn.Module) -> nn.Module:
        """Returns the network as a server of tensors takes it: (B, C, H, W) images in, one (B, *) tensor out.

        Args:
            model: in eval mode; shared, not copied.
        """
        ...

    def meter(self) -> Meter:
        """Returns a meter that has seen nothing."""
        ...

    def reference(self, model: nn.Module, batches: Batches) -> Tensor:
        """Returns (n, *) what `judge` wants to know of the dense network; empty where that is nothing."""
        ...

    def judge(self, model: nn.Module, batches: Batches, reference: Tensor) -> Metrics:
        """Returns the numbers of a candidate, `accuracy` and `score` among them; these two lie in [0, 1].

        Args:
            model: in eval mode.
            batches: of the hold-out.
            reference: what `reference` said of the dense network on the same images.
        """
        ...


def require_finite(outputs: Tensor, *, model: str, data: str) -> None:
    """Checks outputs of any shape.

    Raises:
        ModelError: one is not finite.
    """
    if not torch.isfinite(outputs).all():
        raise ModelError(f"The outputs of {model} are not finite on {data}. Its weights are of no use.")


class Measured:
    """What the number is called that stands as `accuracy` in every record, where more is better.

    Attributes:
        metric: what people call the metric, such as `mIoU`. It lies in [0, 1].
        higher_is_better: where it is not, `accuracy` is one minus the metric.
    """

    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True

    @property
    def reported(self) -> str:
        """The name of `accuracy`: the metric's own, or `1 - ` and that where less is better."""
        return self.metric if self.higher_is_better else f"1 - {self.metric}"

    def goodness(self, value: float) -> float:
        """Returns `accuracy` for a value of the metric."""
        return value if self.higher_is_better else 1 - value


class ComparedByMetric(Measured, ABC):
    """A task whose candidates are compared by its metric itself, for which nothing of the dense network is needed."""

    score: ClassVar[str] = "accuracy"

    @abstractmethod
    def meter(self) -> Meter:
        """Returns a meter that has seen nothing."""

    def reference(self, model: nn.Module, batches: Batches) -> Tensor:
        """Returns nothing."""
        del model, batches
        return torch.empty(0)

    @torch.no_grad()
    def judge(self, model: nn.Module, batches: Batches, reference: Tensor) -> Metrics:
        """Returns what the meter says."""
        del reference
        meter = self.meter()
        for inputs, targets in batches:
            meter.add(model, inputs, targets)
        return meter.result()
