"""Detection with one-stage detectors built as torchvision builds them: their own losses, mean average precision.

Targets are one mapping an image: `boxes` (k, 4) float32 corners x1 y1 x2 y2 in pixels of the network's input, `labels`
(k,) int64 from 1, for 0 is the background, and `difficult` (k,) bool: boxes that nobody has to find.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.tasks.average_precision import AveragePrecision, require_pycocotools
from autoprune.tasks.base import ComparedByMetric, Meter, Metrics, Objective, require_finite
from autoprune.tasks.detectors import heads_of
from autoprune.tasks.distillation import Seen, excludes, gap


class Detection(ComparedByMetric):
    """Boxes with classes."""

    name: ClassVar[str] = "detection"
    metric: ClassVar[str] = "mAP@0.5"
    targets: ClassVar[str] = "boxes"
    batch_size: ClassVar[int] = 16
    learning_rate: ClassVar[float] = 0.01
    gradient_clip: ClassVar[float] = 10.0
    largest_batch: ClassVar[int] = 16
    #: A map of a detector has thousands of positions, and a batch of 300x300 images takes 6 GB at 64.
    calibration_images: ClassVar[int] = 64
    answers: ClassVar[str] = (
        "what the head says of every anchor (N, anchors, *), before boxes are decoded: its outputs side by side in "
        "alphabetical order, such as bbox_regression (4 numbers) and cls_logits (one a class)"
    )

    def check_outputs(self, outputs: object, *, images: Tensor, classes: int, model: str, data: str) -> None:
        """Checks that the outputs are those of a detection head with enough classes."""
        require_pycocotools()
        logits = outputs.get("cls_logits") if isinstance(outputs, Mapping) else None
        if not isinstance(logits, Tensor) or logits.dim() != 3 or len(logits) != len(images):
            raise ModelError(
                f"{model} is no one-stage detector as torchvision builds them (transform, backbone, head and "
                "anchor_generator), such as torchvision/ssd300_vgg16. Name one, or classification data."
            )
        if logits.shape[2] < classes + 1:
            raise ModelError(
                f"{model} tells {logits.shape[2] - 1} classes from the background, but {data} has {classes}. "
                "Build it with as many classes as the data have."
            )
        require_finite(logits, model=model, data=data)

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: list[dict[str, Tensor]],
        *,
        teacher: nn.Module | None,
        objective: Objective,
        precision: AbstractContextManager[Any],
    ) -> Tensor:
        """Returns the sum of the detector's own losses, and what its maps and heads lack of the teacher's.

        A model in eval mode keeps it: its losses are those of a tested network.
        """
        # A team trains the network within a wrapper that adds the gradients up.
        detector: nn.Module = getattr(model, "module", model)
        with precision, _watched(detector) as seen, _as_trained(detector), _exact_anchors(detector):
            losses: Mapping[str, Tensor] = model(list(inputs), targets)
            own = torch.stack([loss.float() for loss in losses.values()]).sum()
            if teacher is None or objective.distillation == 0:
                return own
            with torch.no_grad():
                wanted = Seen(*heads_of(teacher, inputs))
        taught = gap(
            Seen(seen["features"], seen["heads"]),
            wanted,
            temperature=objective.temperature,
            exclusive=excludes(detector),
        )
        return (1 - objective.distillation) * own + objective.distillation * taught

    def served(self, model: nn.Module) -> nn.Module:
        """Returns a network of the head outputs side by side.

        How many boxes are left in the end depends on the image, which neither `torch.export` nor a tensor can say.
        """
        return _HeadsAlone(model).eval()

    def meter(self) -> Meter:
        """Returns a meter of both mean average precisions and of the detector's own losses."""
        return _Meter()


class _HeadsAlone(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        _, outputs = heads_of(self.network, images)
        return torch.cat([outputs[name] for name in sorted(outputs)], dim=2)


class _Meter:
    def __init__(self) -> None:
        self._precision = AveragePrecision()
        self._images = 0
        self._loss = 0.0

    def add(self, model: nn.Module, inputs: Tensor, targets: list[dict[str, Tensor]]) -> None:
        self._precision.add(model(list(inputs)), targets)
        with _as_trained(model):
            losses = model(list(inputs), targets)
        self._loss += len(inputs) * float(sum(losses.values()))
        self._images += len(inputs)

    def result(self) -> Metrics:
        half, mean = self._precision.result()
        return {"accuracy": half, "mAP@0.5": half, "mAP": mean, "loss": self._loss / self._images}


@contextmanager
def _as_trained(detector: nn.Module) -> Iterator[None]:
    """Lets a detector answer with its losses; batch norms stay in the mode that they are in."""
    was_training = detector.training
    # The detector alone looks at its own flag to choose between losses and boxes; its parts keep theirs.
    detector.training = True
    try:
        yield
    finally:
        detector.training = was_training


@contextmanager
def _exact_anchors(detector: nn.Module) -> Iterator[None]:
    """Lets a detector make its anchors in float32: it makes them in the type of its maps, some for good."""

    def widened(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        images, maps = arguments
        return images, [item.new_empty(item.shape, dtype=torch.float32) for item in maps]

    handle = detector.get_submodule("anchor_generator").register_forward_pre_hook(widened)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yields what fills with the feature maps and head outputs of the model's next forward, with their gradients."""
    seen: dict[str, Any] = {}

    def keep(_: nn.Module, arguments: tuple[Any, ...], outputs: Mapping[str, Tensor]) -> None:
        seen.update(features=arguments[0], heads=outputs)

    handle = model.get_submodule("head").register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
