"""How good a structure is while one is searched for within a method: with a short training, or with none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from autoprune.core.cost import IntArray
from autoprune.core.seeds import derive_seed, generator
from autoprune.errors import DivergenceError
from autoprune.methods.base import Subject
from autoprune.methods.swarm import Flight
from autoprune.models.cutting.surgery import Kept, cut
from autoprune.models.reduction.merging import cut_least_squares, recalibrate
from autoprune.training.measure import measure
from autoprune.training.recipe import Recipe
from autoprune.training.trainer import train

#: Images that batch norms are recalibrated on before a structure is scored without training.
_RECALIBRATION = 256


class HoldoutFitness:
    """Scores structures without training: least squares, recalibrated batch norms, accuracy on the hold-out.

    Args:
        subject: what is cut.
        kept_of: the channels that (G,) widths keep.
        images: of the hold-out, at most.
        total: evaluations that are expected, for the progress.
    """

    def __init__(self, subject: Subject, kept_of: Callable[[IntArray], Kept], *, images: int, total: int) -> None:
        self._subject = subject
        self._kept_of = kept_of
        self._images = images
        self._total = total
        self._calls = 0
        self._known: dict[tuple[int, ...], float] = {}

    @property
    def evaluations(self) -> int:
        """Networks that were cut; a structure that comes back is not cut again."""
        return len(self._known)

    def __call__(self, widths: IntArray) -> float:
        """Returns the accuracy in [0, 1] of a structure."""
        key = tuple(int(width) for width in widths)
        if key not in self._known:
            subject = self._subject
            small = cut_least_squares(subject.model, subject.network, self._kept_of(widths), subject.calibration)
            self._known[key] = _accuracy(subject, recalibrate(small, subject.images[:_RECALIBRATION]), self._images)
        self._calls += 1
        self._subject.progress(self._calls, self._total)
        return self._known[key]


class TrainedFitness:
    """Scores structures as ACP and ABCPruner published: random filters, fresh norms, a short training.

    Args:
        subject: what is cut; its whole hold-out scores, where the authors used the test images.
        groups: whose widths are given, others stay dense.
        recipe: of the training.
        total: evaluations that are expected, for the progress.
    """

    def __init__(self, subject: Subject, groups: Sequence[int], recipe: Recipe, *, total: int) -> None:
        self._subject = subject
        self._groups = tuple(groups)
        self._recipe = recipe
        self._total = total
        self._best = -1.0
        self.evaluations = 0
        self.kept = Kept(tuple(np.arange(group.width) for group in subject.network.groups))

    def __call__(self, widths: IntArray) -> float:
        """Returns the accuracy in [0, 1] after the training, 0 if it diverges; `kept` are the best one's channels."""
        subject, number = self._subject, self.evaluations
        kept = self._random_kept(widths, generator(subject.seed, "filters", number))
        model = cut(subject.model, subject.network, kept)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.reset_parameters()
        seed = derive_seed(subject.seed, "fitness", number)
        try:
            train(
                model,
                subject.data.train,
                subject.training,
                self._recipe,
                seed=seed,
                augmentation=subject.data.augmentation,
                device=subject.device,
                task=subject.data.task,
            )
            accuracy = _accuracy(subject, model, len(subject.holdout))
        except DivergenceError:
            accuracy = 0.0
        if accuracy > self._best:
            self._best, self.kept = accuracy, kept
        self.evaluations += 1
        subject.progress(self.evaluations, self._total)
        return accuracy

    def _random_kept(self, widths: IntArray, rng: np.random.Generator) -> Kept:
        indices = [np.arange(group.width) for group in self._subject.network.groups]
        for group, width in zip(self._groups, widths, strict=True):
            dense = len(indices[group])
            if width < dense:
                # A3: the draw excludes the last filter, which can hence only stay in a layer that is not cut.
                indices[group] = np.sort(rng.choice(dense - 1, int(width), replace=False))
        return Kept(tuple(indices))


def _accuracy(subject: Subject, model: nn.Module, images: int) -> float:
    data = subject.data
    return measure(model, data.scoring, subject.holdout[:images], device=subject.device, task=data.task).accuracy


def searched(flight: Flight, evaluations: int) -> dict[str, float | int | str]:
    """Returns what is worth reporting of a search."""
    return {"fitness": flight.fitness, "fitness_at_start": flight.start, "evaluations": evaluations}
