"""Evaluates one candidate: choose channels, cut, merge, perhaps finetune, and score on the hold-out."""

from __future__ import annotations

import time
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.candidate import Candidate, Evaluation, Failure, Fidelity, Merge, Outcome
from autoprune.core.structure import Structure
from autoprune.devices import in_smaller_batches, release_memory
from autoprune.evaluation.scoring import Scorer
from autoprune.evaluation.subject import Subject
from autoprune.models.cutting.surgery import Kept
from autoprune.models.reduction.calibration import Calibration
from autoprune.models.reduction.merging import cut_and_merge
from autoprune.models.reduction.selection import keep_best
from autoprune.training.features import FeatureDistillation
from autoprune.training.recipe import finetune_recipe
from autoprune.training.trainer import train

#: What the score of a classifier may be; `Classification` says how well each foretells the test accuracy.
SCORES = ("probability", "accuracy", "agreement")


class CandidateEvaluator:
    """Scores candidates of one subject."""

    def __init__(
        self, subject: Subject, *, score: str = "probability", device: str = "cpu", worker: str = "main"
    ) -> None:
        self._subject = subject
        self._score = score
        self._device = torch.device(device)
        self._worker = worker
        self._scorer = Scorer(subject, self._device)

    @cached_property
    def _calibration_images(self) -> Tensor:
        return self._subject.calibration_images.contiguous(memory_format=self._scorer.form.layout)

    def evaluate(self, candidate: Candidate) -> Outcome:
        """Returns the evaluation, a `Failure` where the outputs are not finite.

        Raises whatever the cut network raises, of which backends make a `Failure`; of memory only where half the batch
        does not help.
        """
        started = time.perf_counter()
        try:
            metrics = in_smaller_batches(self._device, lambda parts: self._scored(candidate, parts))
        except (Exception, SystemExit):  # the forward is the user's code and may raise anything once cut
            release_memory(self._device)
            raise
        seconds = time.perf_counter() - started
        if not all(np.isfinite(value) for value in metrics.values()):
            return Failure(candidate, "the network's outputs are not finite", seconds, self._worker)
        return Evaluation(
            candidate,
            score=metrics[self._score],
            accuracy=metrics["accuracy"],
            metrics=metrics,
            seconds=seconds,
            worker=self._worker,
        )

    def _scored(self, candidate: Candidate, parts: int) -> dict[str, float]:
        """Returns the metrics of a candidate, its batches cut into `parts`."""
        model, _ = self.build(candidate.structure, candidate.fidelity, seed=candidate.seed, parts=parts)
        return self._scorer.score(model, candidate.fidelity.holdout_images, parts=parts)

    def build(self, structure: Structure, fidelity: Fidelity, *, seed: int, parts: int = 1) -> tuple[nn.Module, Kept]:
        """Returns the cut network of a structure at a fidelity, and the channels it keeps.

        Args:
            structure: the widths.
            fidelity: how it is cut, and trained if at all.
            seed: of the training.
            parts: what training batches are divided by, where memory is short.
        """
        subject = self._subject
        kept = keep_best(subject.rankings, structure.widths)
        count = fidelity.calibration_images
        model = cut_and_merge(
            subject.model,
            subject.network,
            kept,
            merge=fidelity.merge,
            calibration=first_images(subject.calibration, count),
            images=self._calibration_images[:count],
        )
        if fidelity.epochs > 0 and subject.training is not None:
            training = (
                np.arange(len(subject.training)) if subject.training_indices is None else subject.training_indices
            )
            recipe = finetune_recipe(
                fidelity.epochs, images=len(training), batch_size=subject.task.batch_size, features=True
            )
            train(
                model,
                subject.training,
                training,
                recipe.in_parts(parts),
                seed=seed,
                teacher=subject.model,
                augmentation=subject.augmentation,
                device=self._device,
                hooks=[FeatureDistillation.of(subject.network, kept)],
                task=subject.task,
            )
        return model, kept


def first_images(calibration: Calibration, count: int) -> Calibration:
    """Returns the calibration with the targets of the first `count` images only."""
    return Calibration(
        calibration.moments,
        {call: item[:count] for call, item in calibration.targets.items()},
        {call: item[:count] for call, item in calibration.positions.items()},
    )


def fidelity_for(merge: Merge, *, level: int, calibration: int, holdout: int, epochs: float = 0.0) -> Fidelity:
    """Returns a fidelity with its usual name."""
    name = merge.value if epochs == 0 else f"finetune-{epochs:g}"
    return Fidelity(level, name, merge, calibration, holdout, epochs)
