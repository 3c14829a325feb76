from __future__ import annotations

import numpy as np
import pytest

from autoprune.data import split_train, stratified_order
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
