"""Deterministic stratified splits: every prefix of an order has the classes in their proportions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from autoprune.core.seeds import generator
from autoprune.data.images import IntArray
from autoprune.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """Which images score, calibrate and train.

    Prefixes of `calibration` and `holdout` are stratified, too, so that a cheap fidelity may use the first few.

    Attributes:
        calibration: training images that statistics are fitted on; a subset of `training`.
        holdout: images that score candidates: training images that are in neither of the others, or images of a
            validation set.
        training: training images that finetuning uses.
        apart: whether `holdout` are indices into a validation set.
        unused: images of the validation set that score nothing; they go on with the order of `holdout`, so that every
            run of the two is stratified.
    """

    calibration: IntArray
    holdout: IntArray
    training: IntArray
    apart: bool = False
    unused: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def unreserved(self) -> IntArray:
        """(n,) Training images that may be learnt from once nothing is chosen any more: those held out, too."""
        return self.training if self.apart else np.concatenate([self.training, self.holdout])


def split_train(labels: IntArray, *, holdout: int, calibration: int, seed: int) -> Split:
    """Returns a stratified split of training images that depends on the labels, the sizes and the seed alone.

    Raises:
        DataError: there are too few images.
    """
    _require_some(holdout, calibration)
    if holdout + calibration > len(labels):
        raise DataError(
            f"{len(labels)} training images cannot give {holdout} hold-out and {calibration} calibration images. "
            "Ask for fewer with --holdout-images or --calibration-images."
        )
    order = stratified_order(labels, generator(seed, "split"))
    training = order[holdout:]
    return Split(calibration=training[:calibration], holdout=order[:holdout], training=training)


def split_apart(labels: IntArray, validation: IntArray, *, holdout: int, calibration: int, seed: int) -> Split:
    """Returns a stratified split where a validation set scores; it depends on labels, sizes and the seed alone.

    Args:
        labels: (N,) of the training images.
        validation: (M,) labels of the validation set.
        holdout: how many of the validation set score.
        calibration: number of training images.
        seed: of the draw.

    Raises:
        DataError: there are too few images.
    """
    _require_some(holdout, calibration)
    for asked, images, part, option in (
        (holdout, validation, "validation", "--holdout-images"),
        (calibration, labels, "training", "--calibration-images"),
    ):
        if asked > len(images):
            raise DataError(f"There are {len(images)} {part} images, not {asked}. Ask for fewer with {option}.")
    training = stratified_order(labels, generator(seed, "split"))
    scoring = stratified_order(validation, generator(seed, "split", "validation"))
    return Split(
        calibration=training[:calibration],
        holdout=scoring[:holdout],
        training=training,
        apart=True,
        unused=scoring[holdout:],
    )


def _require_some(holdout: int, calibration: int) -> None:
    if holdout < 1 or calibration < 1:
        raise DataError(
            f"A split needs at least one image each, not {holdout} to hold out, {calibration} to calibrate."
        )


def stratified_order(labels: IntArray, rng: np.random.Generator) -> IntArray:
    """Returns (N,) a random order of all images in which every run holds the classes in their proportions.

    Systematic sampling: the r-th image of a class of n stands at (r + u) / n of the order, u random per class.
    """
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(position, kind="stable").astype(np.int64)
