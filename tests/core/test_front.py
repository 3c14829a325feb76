import itertools

import numpy as np
import pytest

from autoprune.core.candidate import Candidate, Evaluation, Fidelity, Merge
from autoprune.core.cost import Cost
from autoprune.core.front import ParetoFront, hypervolume
from autoprune.core.structure import Structure
from tests.core.dominance import is_dominated

RUNG = Fidelity(0, "slice", Merge.SLICE, 1, 1)


def evaluation(identity: int, score: float, macs: int, params: int = 1) -> Evaluation:
    candidate = Candidate(identity, Structure((identity + 1,)), Cost(macs, params), RUNG, 0, "test")
    return Evaluation(candidate, score=score, accuracy=score)


def random_evaluations(seed: int) -> list[Evaluation]:
    rng = np.random.default_rng(seed)
    # Coarse values, so that ties in one and in both coordinates occur.
    return [
        evaluation(i, int(rng.integers(0, 8)) / 8, int(rng.integers(1, 9)), int(rng.integers(1, 9)))
        for i in range(int(rng.integers(1, 20)))
    ]


@pytest.mark.parametrize("resource", ["macs", "params"])
@pytest.mark.parametrize("seed", range(30))
def test_the_front_is_what_brute_force_leaves(seed: int, resource: str) -> None:
    evaluations = random_evaluations(seed)
    pairs = [(one.score, one.candidate.cost.of(resource)) for one in evaluations]
    expected = {pair for pair in pairs if not is_dominated(*pair, pairs)}
    front = ParetoFront.of(evaluations, resource)
    found = [(one.score, one.candidate.cost.of(resource)) for one in front]
    assert set(found) == expected
    assert len(found) == len(set(found)) == len(front)
    assert found == sorted(found, key=lambda pair: pair[1])


@pytest.mark.parametrize("seed", range(30))
def test_the_order_of_evaluations_does_not_matter(seed: int) -> None:
    evaluations = random_evaluations(seed)
    shuffled = [evaluations[i] for i in np.random.default_rng(seed + 1).permutation(len(evaluations))]
    assert ParetoFront.of(evaluations) == ParetoFront.of(shuffled)


def test_of_equal_pairs_the_lowest_id_stays() -> None:
    assert [one.candidate.id for one in ParetoFront.of([evaluation(3, 0.5, 2), evaluation(1, 0.5, 2)])] == [1]


def test_equal_pairs_do_not_dominate_each_other() -> None:
    assert not is_dominated(0.5, 3, [(0.5, 3)])
    assert is_dominated(0.5, 3, [(0.5, 2)])
    assert is_dominated(0.5, 3, [(0.6, 3)])
    assert not is_dominated(0.5, 3, [(0.4, 2), (0.6, 4)])


@pytest.mark.parametrize("seed", range(30))
def test_the_hypervolume_equals_a_count_of_cells(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = 16
    points = rng.integers(0, cells + 1, (int(rng.integers(0, 8)), 2)) / cells
    covered = sum(
        any(score * cells >= row + 1 and share * cells <= column for score, share in points)
        for row, column in itertools.product(range(cells), range(cells))
    )
    assert hypervolume(points, (0.0, 1.0)) == pytest.approx(covered / cells**2)


def test_points_worse_than_the_reference_do_not_count() -> None:
    assert hypervolume([(0.4, 0.5), (0.9, 1.2)], (0.5, 1.0)) == 0.0
    assert hypervolume(np.zeros((0, 2)), (0.0, 1.0)) == 0.0
    assert hypervolume([(0.75, 0.5)], (0.5, 1.0)) == pytest.approx(0.125)


def test_a_front_measures_its_area_in_shares_of_the_dense_cost() -> None:
    front = ParetoFront.of([evaluation(0, 0.5, 25), evaluation(1, 0.75, 50)])
    assert front.hypervolume(Cost(100, 1)) == pytest.approx(0.5 * 0.25 + 0.75 * 0.5)
