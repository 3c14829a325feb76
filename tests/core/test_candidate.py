import math

import pytest

from autoprune.core.candidate import Candidate, Evaluation, Failure, Fidelity, Ladder, Merge
from autoprune.core.cost import Cost
from autoprune.core.seams import BackendReport, frozen_arrays
from autoprune.core.seeds import derive_seed, generator
from autoprune.core.structure import Structure
from autoprune.errors import AutopruneError, BudgetError, ConfigError, nearest

RUNGS = tuple(Fidelity(level, f"rung{level}", Merge.SLICE, 1, 1) for level in range(3))


def candidate(level: int = 0) -> Candidate:
    return Candidate(0, Structure((1,)), Cost(1, 1), RUNGS[level], 0, "test")


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.01, 1.01])
def test_no_score_outside_of_zero_to_one_leaves_an_evaluation(score: float) -> None:
    with pytest.raises(ValueError, match="does not lie in"):
        Evaluation(candidate(), score=score, accuracy=0.5)
    with pytest.raises(ValueError, match="accuracy"):
        Evaluation(candidate(), score=0.5, accuracy=score)


def test_metrics_are_finite() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Evaluation(candidate(), score=0.5, accuracy=0.5, metrics={"loss": math.nan})


def test_who_climbed_higher_has_more_merit_whatever_the_scores() -> None:
    low = Evaluation(candidate(0), score=0.99, accuracy=0.99)
    high = Evaluation(candidate(1), score=0.01, accuracy=0.01)
    assert high.merit > low.merit


@pytest.mark.parametrize("rungs", [(), RUNGS[1:], (RUNGS[0], RUNGS[2])])
def test_a_ladder_is_numbered_from_zero(rungs: tuple[Fidelity, ...]) -> None:
    with pytest.raises(ConfigError, match="numbered 0, 1, 2"):
        Ladder(rungs)


def test_a_ladder_keeps_one_in_at_least_one() -> None:
    with pytest.raises(ConfigError, match=r"one candidate in 0\.5"):
        Ladder(RUNGS, keep=0.5)
    assert Ladder(RUNGS).top is RUNGS[2]


def test_seeds_depend_on_every_part_and_on_nothing_else() -> None:
    paths = [(0,), (1,), (0, "a"), (0, "a", 1), (0, "a", 2), (1, "a", 1)]
    seeds = [derive_seed(*path) for path in paths]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [derive_seed(*path) for path in paths]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert generator(3, "x").random() == generator(3, "x").random()


def test_frozen_arrays_cannot_be_written_and_leave_the_original_alone() -> None:
    import numpy as np

    original = np.zeros(3)
    frozen = frozen_arrays({"a": original})
    with pytest.raises(ValueError, match="read-only"):
        frozen["a"][0] = 1
    original[0] = 1


def test_utilisation_is_busy_time_over_capacity() -> None:
    assert BackendReport(workers=2, seconds=10, busy_seconds=15, interrupted=False).utilisation == 0.75
    assert BackendReport(workers=2, seconds=0, busy_seconds=0, interrupted=True).utilisation == 0.0


def test_one_except_catches_everything_a_caller_can_fix() -> None:
    assert issubclass(BudgetError, AutopruneError)
    assert issubclass(BudgetError, ValueError)


def test_the_nearest_name_is_hinted_at_or_all_are_listed() -> None:
    assert nearest("unifrom", ["uniform", "random"]) == " Did you mean 'uniform'?"
    assert nearest("nope", ["coupled", "internal"]) == " Known: coupled, internal."
    assert nearest("zzz", ["b", "a"]) == " Known: a, b."
    assert nearest("zzz", []) == ""


@pytest.mark.parametrize("why", [RuntimeError("too much\nof everything"), RuntimeError("x" * 5000), "y" * 5000])
def test_a_failure_says_why_in_one_bearable_line(why) -> None:
    failure = Failure.of(candidate(), why, seconds=2.0, worker="w")
    assert "\n" not in failure.reason
    assert len(failure.reason) <= 300
    assert failure.reason.startswith("RuntimeError: " if isinstance(why, Exception) else "y")
    assert (failure.seconds, failure.worker) == (2.0, "w")
