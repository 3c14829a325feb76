from __future__ import annotations

import math

import pytest

from autoprune.errors import ConfigError
from autoprune.methods.schedules import SCHEDULES, removed_share, space_at
from tests.methods.small_subject import small_subject


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_ends_at_the_whole_removal_and_never_gives_any_of_it_back(name: str) -> None:
    shares = [removed_share(name, step / 200) for step in range(201)]
    assert shares[0] == (1.0 if name == "const" else 0.0)
    assert shares[-1] == 1.0
    assert all(later >= earlier for earlier, later in zip(shares, shares[1:], strict=False))
    assert removed_share(name, 1.7) == 1.0
    assert removed_share(name, -1.0) == shares[0]


def test_the_exponential_schedule_is_that_of_asfp() -> None:
    # a exp(-k t) + b through (0, 0), (1/8, 3/4 P), (1, P): k = 11.09 and b = 1.000015 P (methods.md, 4.2).
    assert removed_share("exp", 1 / 8) == pytest.approx(0.75, abs=2e-5)
    for t in (0.01, 0.2, 0.5, 0.9):
        assert removed_share("exp", t) == pytest.approx(1.000015 * (1 - math.exp(-11.0904 * t)), abs=1e-5)


def test_the_others_are_what_their_names_say() -> None:
    found = {name: removed_share(name, 0.25) for name in ("linear", "poly", "cosine")}
    assert found == pytest.approx({"linear": 0.25, "poly": 1 - 0.75**3, "cosine": (1 - math.sqrt(0.5)) / 2})


def test_the_budget_shrinks_from_the_dense_cost_to_the_spaces_own() -> None:
    space = small_subject(budget="40%flops").space
    dense, last = space.cost_model.dense.macs, space.limits[0].ceiling
    assert space_at(space, 0.0).project([space.dense.widths]) == [space.dense]
    assert space_at(space, 0.5).limits[0].ceiling == pytest.approx((dense + last) / 2, abs=1)
    assert space_at(space, 1.0).limits == space.limits


def test_a_band_becomes_its_upper_end() -> None:
    space = small_subject(budget="30..60%flops").space
    limit = space_at(space, 1.0).limits[0]
    assert limit.floor == limit.ceiling == space.limits[0].ceiling


def test_an_unknown_schedule_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Unknown schedule 'cosin'.*'cosine'"):
        removed_share("cosin", 0.5)
