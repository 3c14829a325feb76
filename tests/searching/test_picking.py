import pytest

from autoprune.errors import ConfigError
from autoprune.searching.picking import Choice


def test_an_id_excludes_every_other_wish():
    with pytest.raises(ConfigError, match="leave --budget and --min-accuracy out"):
        Choice(id=3, budget="40%flops")


@pytest.mark.parametrize("share", [-0.1, 92.0, float("nan")])
def test_a_smallest_accuracy_is_a_share(share):
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\]"):
        Choice(min_accuracy=share)


def test_a_candidate_that_was_not_evaluated_is_named():
    with pytest.raises(ConfigError, match="Candidate 7 was not evaluated"):
        Choice(id=7).of([], None)


def test_nothing_that_fits_is_one_clear_line():
    with pytest.raises(ConfigError, match="No evaluated candidate fits"):
        Choice(min_accuracy=0.9).of([], None)
