import pytest

from autoprune.errors import ConfigError
from autoprune.methods.schedules import SCHEDULES, removed_share, space_at
from tests.methods.small_subject import small_subject


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_rises_from_its_start_to_the_whole(name):
    shares = [removed_share(name, step / 50) for step in range(51)]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=1e-12)
    assert shares[0] == (1.0 if name == "const" else 0.0)


def test_the_asymptotic_schedule_has_removed_three_quarters_after_an_eighth():
    assert removed_share("exp", 1 / 8) == pytest.approx(0.75, abs=2e-5)


def test_time_outside_the_pruning_phase_is_its_start_or_its_end():
    assert removed_share("linear", -1) == 0.0
    assert removed_share("linear", 7) == 1.0


def test_an_unknown_schedule_is_named_with_the_nearest_known():
    with pytest.raises(ConfigError, match=r"Unknown schedule 'cosin'\. Did you mean 'cosine'\?$"):
        removed_share("cosin", 0.5)


def test_the_space_of_the_moment_lies_between_the_dense_cost_and_the_budget():
    space = small_subject().space
    dense = space.cost_model.dense.macs
    ceilings = [space_at(space, removed).limits[0].ceiling for removed in (0, 0.5, 1)]
    assert ceilings[::2] == [dense, space.limits[0].ceiling]
    assert ceilings[1] == (ceilings[0] + ceilings[2]) // 2
    assert space.cost(space_at(space, 0.5).uniform()).macs <= ceilings[1]
