"""Deterministic stratified splits: every prefix of an order has the classes in their proportions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core.seeds import generator
from autoprune.data.images import IntArray
from autoprune.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into the training images.

    Prefixes of `calibration` and `holdout` are stratified, too, so that a cheap fidelity may use the first few.

    Attributes:
        calibration: images that statistics are fitted on; a subset of `training`.
        holdout: images that score candidates; disjoint from the others.
        training: images that finetuning uses.
    """

    calibration: IntArray
    holdout: IntArray
    training: IntArray


def split_train(labels: IntArray, *, holdout: int, calibration: int, seed: int) -> Split:
    """Returns a stratified split of training images that depends on the labels, the sizes and the seed alone.

    Raises:
        DataError: there are too few images.
    """
    if holdout < 1 or calibration < 1:
        raise DataError(
            f"A split needs at least one image each, not {holdout} to hold out, {calibration} to calibrate."
        )
    if holdout + calibration > len(labels):
        raise DataError(
            f"{len(labels)} training images cannot give {holdout} hold-out and {calibration} calibration images. "
            "Ask for fewer with --holdout-images or --calibration-images."
        )
    order = stratified_order(labels, generator(seed, "split"))
    training = order[holdout:]
    return Split(calibration=training[:calibration], holdout=order[:holdout], training=training)


def stratified_order(labels: IntArray, rng: np.random.Generator) -> IntArray:
    """Returns (N,) a random order of all images in which every run holds the classes in their proportions.

    Systematic sampling: the r-th image of a class of n stands at (r + u) / n of the order, u random per class.
    """
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(position, kind="stable").astype(np.int64)
