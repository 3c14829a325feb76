from __future__ import annotations

import numpy as np
import pytest

from autoprune.data import split_train, stratified_order
from autoprune.data.splits import split_apart
from autoprune.errors import DataError

LABELS = np.repeat([0, 1, 2], [600, 300, 100])


def test_the_parts_of_a_split_are_disjoint_where_they_must_be() -> None:
    split = split_train(LABELS, holdout=200, calibration=50, seed=0)
    assert set(split.calibration) <= set(split.training)
    assert not set(split.holdout) & set(split.training)
    assert len(split.holdout) + len(split.training) == len(LABELS)
    assert len(set(split.training)) == len(split.training)


def test_every_prefix_of_an_order_holds_the_classes_in_their_proportions() -> None:
    order = stratified_order(LABELS, np.random.default_rng(0))
    assert sorted(order) == list(range(len(LABELS)))
    for size in (10, 37, 100, 555):
        counts = np.bincount(LABELS[order[:size]], minlength=3)
        assert np.abs(counts - size * np.asarray([0.6, 0.3, 0.1])).max() <= 2


def test_a_seed_gives_the_same_split_and_another_seed_another() -> None:
    first, again, other = (split_train(LABELS, holdout=100, calibration=40, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.holdout, again.holdout)
    assert np.array_equal(first.training, again.training)
    assert not np.array_equal(first.holdout, other.holdout)


@pytest.mark.parametrize(("holdout", "calibration"), [(990, 11), (0, 5), (5, 0)])
def test_impossible_sizes_are_refused(holdout: int, calibration: int) -> None:
    with pytest.raises(DataError, match="image"):
        split_train(LABELS, holdout=holdout, calibration=calibration, seed=0)


def test_a_validation_set_scores_and_all_training_images_train() -> None:
    validation = np.repeat([0, 1, 2], [30, 20, 10])
    split = split_apart(LABELS, validation, holdout=12, calibration=50, seed=0)
    assert np.bincount(validation[split.holdout]).tolist() == [6, 4, 2]
    order = np.concatenate([split.holdout, split.unused])
    assert sorted(order) == list(range(len(validation)))
    assert np.bincount(validation[order[6:18]]).tolist() == [6, 4, 2]
    assert sorted(split.training) == sorted(split.unreserved) == list(range(len(LABELS)))
    assert set(split.calibration) <= set(split.training)


def test_what_was_held_out_of_the_training_images_may_be_learnt_from_in_the_end() -> None:
    split = split_train(LABELS, holdout=200, calibration=50, seed=0)
    assert sorted(split.unreserved) == list(range(len(LABELS)))


@pytest.mark.parametrize(
    ("holdout", "calibration", "message"),
    [(3, 5, "2 validation images, not 3.*--holdout-images"), (1, 1001, "1000 training images.*--calibration-images")],
)
def test_a_validation_set_that_is_too_small_names_the_option(holdout: int, calibration: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_apart(LABELS, np.asarray([0, 1]), holdout=holdout, calibration=calibration, seed=0)
