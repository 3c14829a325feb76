import numpy as np
import pytest

from autoprune.core.candidate import Candidate, Evaluation
from autoprune.core.cost import Cost
from autoprune.core.structure import Structure
from autoprune.study.halving import Ranking
from autoprune.testing.landscape import simulated_ladder
from tests.core.dominance import is_dominated


@pytest.mark.parametrize("resource", ["macs", "params"])
@pytest.mark.parametrize("whole_front", [False, True])
def test_a_ranking_that_grows_is_the_one_of_all_at_once(whole_front: bool, resource: str) -> None:
    rng, ranking, seen = np.random.default_rng(0), Ranking(whole_front=whole_front, resource=resource), []
    rung = simulated_ladder(1).rungs[0]
    # Few values, so that ties in score, in cost and in both occur.
    for number, (score, macs, params) in enumerate(rng.integers(1, 7, (60, 3)).tolist()):
        candidate = Candidate(number, Structure((macs,)), Cost(macs, params), rung, 0, "toy")
        seen.append(Evaluation(candidate, score / 10, score / 10))
        ranking.add(seen[-1])
        points = [(one.score, one.candidate.cost.of(resource)) for one in seen]

        def dominators(one: Evaluation) -> int:
            pairs = [[point] for point in points]  # noqa: B023 - called at once
            return sum(is_dominated(one.score, one.candidate.cost.of(resource), pair) for pair in pairs) * whole_front

        wanted = sorted(seen, key=lambda e: (dominators(e), -e.score, e.candidate.cost.of(resource), e.candidate.id))
        assert ranking.top(7) == wanted[:7]
