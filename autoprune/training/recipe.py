"""How a network is trained: values only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autoprune.errors import ConfigError

_SCHEDULES = ("cosine", "constant")
#: Steps of an epoch of CIFAR-10, by which the rate of a finetune was chosen.
_RATED_STEPS = 50_000 / 128
#: A finetune of fewer steps takes smaller batches, down to this one: below, batch norm sees too little.
_ENOUGH_STEPS, _SMALLEST_BATCH = 128, 32


@dataclass(frozen=True, slots=True)
class Recipe:
    """SGD with Nesterov momentum, optionally with distillation from a teacher.

    Attributes:
        epochs: passes over the images; fractions count.
        learning_rate: at its peak.
        batch_size: images per step.
        momentum: in [0, 1).
        weight_decay: on weights of convolutions and linear layers only, not on biases and batch norm.
        schedule: `cosine` to zero, per step, or `constant`.
        warmup_epochs: linear rise of the learning rate at the start.
        distillation: share of the teacher's divergence in the loss, in [0, 1]; the rest is cross-entropy. Only used
            where a teacher is given.
        temperature: softens both sides of the divergence, above 0.
        label_smoothing: in [0, 1).
        gradient_clip: largest L2 norm of the whole gradient; infinity for no clipping.
        mixed_precision: half precision where the device is faster by it (`kernels.training_precision`).
    """

    epochs: float
    learning_rate: float
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    distillation: float = 0.0
    temperature: float = 4.0
    label_smoothing: float = 0.0
    gradient_clip: float = math.inf
    mixed_precision: bool = True

    def in_parts(self, parts: int) -> Recipe:
        """Returns the recipe for a memory that holds one part of a batch only: smaller batches, more steps."""
        return replace(self, batch_size=max(1, self.batch_size // parts))

    def __post_init__(self) -> None:
        if self.schedule not in _SCHEDULES:
            raise ConfigError(f"Unknown schedule {self.schedule!r} in the recipe. Known: {', '.join(_SCHEDULES)}.")
        # Written so that NaN fails, too.
        checks = {
            "epochs": (0 <= self.epochs < math.inf, "at least 0"),
            "learning_rate": (0 < self.learning_rate < math.inf, "above 0"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "warmup_epochs": (0 <= self.warmup_epochs < math.inf, "at least 0"),
            "distillation": (0 <= self.distillation <= 1, "in [0, 1]"),
            "temperature": (0 < self.temperature < math.inf, "above 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "gradient_clip": (self.gradient_clip > 0, "above 0"),
        }
        for name, (holds, wanted) in checks.items():
            if not holds:
                raise ConfigError(f"{name} {getattr(self, name)!r} in the recipe must be {wanted}.")

    def steps(self, images: int) -> int:
        """Returns the number of optimiser steps over that many images; 0 only for 0 epochs."""
        if self.epochs == 0:
            return 0
        return max(1, round(self.epochs * images / min(self.batch_size, images)))

    def rate(self, step: int, *, images: int) -> float:
        """Returns the learning rate of a step (from 0) of a training over that many images."""
        total = self.steps(images)
        warmup = min(total, round(self.warmup_epochs * images / min(self.batch_size, images)))
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def finetune_recipe(epochs: float, *, images: int, batch_size: int = 128, features: bool = False) -> Recipe:
    """Returns the recipe that a cut network recovers with: distillation from the dense one.

    A reconstructed network is near its optimum already, a deep one nearer, and a high rate first destroys what was
    solved for; the fewer the steps, the less of it comes back. Hence a rate that grows with the square root of the
    steps, up to those of one epoch of CIFAR-10; without features and over more than one epoch it goes on growing, which
    is a rule of thumb. Where images are few, batches are smaller and steps more, but the rate stays that of the usual
    batches.

    Args:
        epochs: passes over the images.
        images: in a pass.
        batch_size: images per step, where they are many enough.
        features: whether `FeatureDistillation` takes part, which bears twice the rate.

    Measured on the CIFAR-10 ResNet-20 with projection shortcuts at 50 % of the MACs, sequentially reconstructed from
    512 images (85.6 % of the first 4,000 test images), after 0.2 epochs at batch 128 without features, one seed each:

        rate      0.002  0.005  0.01   0.02   0.05
        accuracy  87.3   87.5   87.8   86.0   82.9

    and a ResNet-56 of the same kind (91.6 % of the test images as reconstructed from 4,096 images) after 0.1 epochs, on
    2,000 hold-out images, which the dense network has seen:

        rate      0      0.001  0.003  0.01
        accuracy  98.6   98.1   98.4   96.7

    With features, on the structures that searches found at 50 % of the MACs, reconstructed from 4,096 images, one seed
    each, accuracy on 2,000 hold-out images / the first 2,000 test images; r is the rate at one epoch:

                               untrained    no features, r 0.01   features, r 0.02
        ResNet-20-B, 0.25      93.8 / 86.8  94.3 / 88.4           94.6 / 89.8
        ResNet-20-B, 1.0       93.8 / 86.8  94.6 / 89.6           95.5 / 90.2
        ResNet-56-B, 0.25      98.8 / 92.4  98.7 / 92.8           98.8 / 93.0

    and uniform widths of ResNet-20-B (88.8 / 84.8 untrained) after 6 epochs with features, 4,000 hold-out images / all
    test images, in bfloat16: 94.7 / 90.8 at a rate of 0.01, 94.7 / 91.0 at 0.02, 94.4 / 90.7 at 0.049, which the square
    root would give. So with features the rate grows up to one epoch there, and no further.

    With the outputs of all blocks as features, weighed with 30, ResNet-20-B reached 95.1 / 88.5, 95.5 / 89.8 and
    94.9 / 89.3 after 0.25 epochs at r 0.01, 0.02 and 0.04.

    One epoch of few images (`experiments.benchmarks.few_images`), first 2,000 test images, one seed. A rate that grows
    with the steps of the smaller batches is 0.0056 at 1,000 images, this one 0.0028:

                               untrained  128, 0.02  32, their steps' rate  32, this rate
        ResNet-20-B, 300       85.0       77.8       83.7                   84.4
        ResNet-20-B, 1,000     84.2       78.2       85.6                   84.9
        ResNet-20-B, 4,000     84.6       87.9       87.0                   86.7
        ResNet-56-B, 1,000     90.4       87.2       89.0                   89.9
        ResNet-56-B, 4,000     90.8       89.7       90.2                   91.3

    The U-Net of `digits-scenes` at 30 % of the FLOPs, 1,500 images in batches of 16 as usual, uniform widths: 51.0 %
    mIoU untrained, 67.4 at 0.0098, as here, 64.1 at 0.0035.
    """
    batch = min(batch_size, max(_SMALLEST_BATCH, round(epochs * images / _ENOUGH_STEPS)))
    highest, growth = (0.02, 1.0) if features else (0.01, 25.0)
    steps, most = epochs * images / batch_size / _RATED_STEPS, max(1.0, min(epochs, growth))
    rate = highest * math.sqrt(min(steps, most))
    return Recipe(
        epochs=epochs,
        learning_rate=rate if epochs > 0 else highest,
        batch_size=batch,
        weight_decay=5e-4,
        warmup_epochs=min(0.1 * epochs, 1.0),
        distillation=0.9,
        temperature=4.0,
        gradient_clip=5.0,
    )
