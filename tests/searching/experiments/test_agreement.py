"""Invariants: an interval holds its tau, narrows with more structures, and is a point where rankings are one."""

from __future__ import annotations

import numpy as np

from autoprune.core.seeds import generator
from autoprune.searching.experiments.agreement import agreement, bootstrap_interval


def test_the_interval_holds_tau_and_narrows_with_more_structures():
    rng = np.random.default_rng(0)
    widths = []
    for count in (10, 160):
        first = rng.normal(size=count)
        pairs = np.stack([first, first + rng.normal(size=count)], axis=1)
        low, high = bootstrap_interval(pairs, generator(0))
        assert -1 <= low < high <= 1
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_scores_that_agree_perfectly_have_an_interval_at_one():
    pairs = np.stack([np.arange(9.0), np.arange(9.0) ** 2], axis=1)
    assert bootstrap_interval(pairs, generator(0)) == (1.0, 1.0)


def test_structures_that_failed_in_either_ranking_are_left_out():
    scores, truth = np.arange(8.0), np.arange(8.0)
    scores[0] = truth[1] = np.nan
    found = agreement(scores, truth, generator(0))
    assert found == {"tau": 1.0, "low": 1.0, "high": 1.0, "tau_better_half": 1.0, "structures": 6}
    none = agreement(scores, np.full(8, np.nan), generator(0))
    assert none == {"tau": None, "low": None, "high": None, "tau_better_half": None, "structures": 0}
