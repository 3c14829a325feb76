"""Semantic segmentation: (n, classes, H, W) maps, cross-entropy over pixels, mean intersection over union.

A network returns the maps, or a mapping with them as `out` and perhaps `aux`, the maps of an auxiliary head, as
torchvision's FCN, DeepLabV3 and LR-ASPP do; in training perhaps a tuple of them and those of auxiliary heads. Targets
are (n, H, W) int64 classes, 255 for pixels that do not count.

While training, the loss of an auxiliary head counts half, as in torchvision's `references/segmentation/train.py`.
Outputs are distilled pixel by pixel (Liu et al. 2019, "Structured Knowledge Distillation for Semantic Segmentation",
equation 2; with Hinton's temperature, and the divergence taken from the teacher's side), features by attention
transfer: the maps that the convolutions read which put out a channel for each class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.errors import ModelError
from autoprune.tasks.auxiliary import answers
from autoprune.tasks.base import ComparedByMetric, Meter, Metrics, Objective, require_finite
from autoprune.tasks.distillation import attention_gap

#: Pixels of this value do not count: Pascal VOC's void, outlines and what nobody could tell.
IGNORED = 255
_AUXILIARY_SHARE = 0.5


class Segmentation(ComparedByMetric):
    """A class a pixel. Another metric of the confusion matrix is a subclass with `metric` and `quality`."""

    name: ClassVar[str] = "segmentation"
    metric: ClassVar[str] = "mIoU"
    targets: ClassVar[str] = "masks"
    batch_size: ClassVar[int] = 16
    learning_rate: ClassVar[float] = 0.01
    gradient_clip: ClassVar[float] = 10.0
    largest_batch: ClassVar[int] = 64
    #: A map has as many positions as the image pixels, and a backbone with dilation keeps an eighth of each side.
    calibration_images: ClassVar[int] = 32
    answers: ClassVar[str] = "logits (N, classes, H, W), a class a pixel"

    def quality(self, confusion: Tensor) -> Tensor:
        """Returns the metric of (classes, classes) float64 counts of pixels, true classes in rows.

        Everingham et al. 2010 ("The Pascal Visual Object Classes Challenge"): over all images at once, the mean of
        every class's intersection by its union; classes that are neither there nor found do not count.
        """
        hits = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - hits
        return (hits / union)[union > 0].mean() if bool(union.any()) else hits.new_zeros(())

    def check_outputs(self, outputs: object, *, images: Tensor, classes: int, model: str, data: str) -> None:
        """Checks that there is a finite score for every class and pixel."""
        maps = _maps(outputs)
        if maps is None or maps.ndim != 4 or len(maps) != len(images):
            raise ModelError(
                f"{model} puts out no map of classes (images, classes, height, width), alone or as `out` of a mapping, "
                "such as torchvision/lraspp_mobilenet_v3_large does. Name such a network, or data of another kind."
            )
        _require_size(maps, images, model)
        if maps.shape[1] < classes:
            raise ModelError(
                f"{model} has maps of {maps.shape[1]} classes, but {data} has {classes}. Build it with as many classes "
                "as the data have, the background among them."
            )
        require_finite(maps, model=model, data=data)

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        teacher: nn.Module | None,
        objective: Objective,
        precision: AbstractContextManager[Any],
    ) -> Tensor:
        """Returns cross-entropy over pixels, and what maps and features lack of the teacher's, weighted."""
        share = 0.0 if teacher is None else objective.distillation
        # A team trains the network within a wrapper that adds the gradients up.
        with precision, _reading(getattr(model, "module", model), None if share > 0 else ()) as mine:
            outputs, others = answers(model(inputs), training=model.training, name="out", sure=("aux",))
            maps = _checked(outputs, targets).float()
            wanted, theirs = maps, mine
            if teacher is not None and share > 0:
                heads = [name for name, (_, classes) in mine.items() if classes == maps.shape[1]]
                with torch.no_grad(), _reading(teacher, heads) as theirs:
                    wanted = _checked(teacher(inputs), targets).float()
        loss = torch.zeros((), device=inputs.device)
        if share < 1:
            own = _entropy(maps, targets, smoothing=objective.label_smoothing)
            for item in others:
                aux = functional.interpolate(item.float(), targets.shape[-2:], mode="bilinear", align_corners=False)
                own = own + _AUXILIARY_SHARE * _entropy(aux, targets, smoothing=objective.label_smoothing)
            loss = loss + (1 - share) * own
        if share > 0:
            features = attention_gap([(mine[name][0], theirs[name][0]) for name in theirs])
            loss = loss + share * (_divergence(maps, wanted, temperature=objective.temperature) + features)
        return loss

    def served(self, model: nn.Module) -> nn.Module:
        """Returns a network of the maps alone, without the mapping and what else is in it."""
        return _MapsAlone(model).eval()

    def meter(self) -> Meter:
        """Returns a meter of the metric, of the share of pixels that are right, and of the cross-entropy a pixel."""
        return _Meter(self)


class _MapsAlone(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        maps = _maps(self.network(images))
        assert maps is not None  # it was tested by now
        return maps


class _Meter:
    def __init__(self, task: Segmentation) -> None:
        self._task = task
        self._confusion: Tensor | None = None
        self._loss = torch.zeros((), dtype=torch.float64)

    def add(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        maps = _checked(model(inputs), targets)
        classes = maps.shape[1]
        counts = targets != IGNORED
        pairs = classes * targets[counts] + maps.argmax(1)[counts]
        found = torch.bincount(pairs, minlength=classes**2).view(classes, classes).double()
        self._confusion = found if self._confusion is None else self._confusion + found
        # Sums stay on the device: nothing waits for it until the end.
        entropy = functional.cross_entropy(maps.float(), targets, ignore_index=IGNORED, reduction="sum").double()
        self._loss = self._loss.to(inputs.device) + entropy

    def result(self) -> Metrics:
        assert self._confusion is not None
        confusion, pixels = self._confusion.cpu(), max(1.0, float(self._confusion.sum()))
        value = float(self._task.quality(confusion))
        return {
            "accuracy": self._task.goodness(value),
            # First by the name that tables read; where less is better, the metric itself follows.
            self._task.reported: self._task.goodness(value),
            self._task.metric: value,
            "pixel accuracy": float(confusion.diagonal().sum()) / pixels,
            "loss": float(self._loss) / pixels,
        }


def _maps(outputs: object) -> Tensor | None:
    found = outputs.get("out") if isinstance(outputs, Mapping) else outputs
    return found if isinstance(found, Tensor) else None


def _checked(outputs: object, targets: Tensor) -> Tensor:
    """Returns a network's maps if they have a class for every target.

    Raises:
        ModelError: they have not, or are no maps.
    """
    maps = _maps(outputs)
    if maps is None or maps.ndim != 4 or len(maps) != len(targets):
        raise ModelError("The model puts out no map of classes (images, classes, height, width). Give such a network.")
    _require_size(maps, targets, "The model")
    # Checked on the host only: on a GPU the comparison would wait for the device at every step.
    if targets.device.type == "cpu":
        highest = int(torch.where(targets == IGNORED, -1, targets).max())
        if highest >= maps.shape[1]:
            raise ModelError(
                f"The data have the class {highest}, but the model has maps of {maps.shape[1]}. Build it with as many "
                "classes as the data have, the background among them."
            )
    return maps


def _require_size(maps: Tensor, images: Tensor, model: str) -> None:
    if maps.shape[-2:] != images.shape[-2:]:
        found, wanted = ("x".join(map(str, item.shape[-2:])) for item in (maps, images))
        raise ModelError(
            f"{model} puts out maps of {found} for images of {wanted}. Let its forward interpolate them to the size of "
            "the images."
        )


def _entropy(maps: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
    """Returns the mean over the pixels that count; 0 where none does, not NaN."""
    total = functional.cross_entropy(maps, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
    return total / (targets != IGNORED).sum().clamp_min(1)


def _divergence(maps: Tensor, wanted: Tensor, *, temperature: float) -> Tensor:
    """Returns temperature squared times the mean KL divergence of a pixel's classes from the wanted ones."""
    left, right = ((item / temperature).log_softmax(1) for item in (maps, wanted))
    return temperature**2 * (right.exp() * (right - left)).sum(1).mean()


@contextmanager
def _reading(model: nn.Module, names: Collection[str] | None = None) -> Iterator[dict[str, tuple[Tensor, int]]]:
    """Yields what fills with what convolutions read in the model's next forward, and how many channels they put out.

    In training these inputs are kept for the backward pass anyway.
    """
    seen: dict[str, tuple[Tensor, int]] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            seen[name] = (arguments[0], output.shape[1])

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and (names is None or name in names)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
