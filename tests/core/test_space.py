import itertools
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.budget import parse_budgets
from autoprune.core.cost import AxisWidth, CostModel, LayerTerm
from autoprune.core.space import SearchSpace
from autoprune.core.structure import PrunableGroup, Structure
from autoprune.errors import BudgetError, StructureError
from tests.core.chain_network import network

BUDGETS = ["50%flops", "12%flops", "97%flops", "35%params", "100%flops"]


def space_of(budget: str | list[str], *, multiple_of: int = 1, min_width: int = 1) -> SearchSpace:
    groups, cost_model = network(multiple_of, min_width)
    return SearchSpace.build(groups, cost_model, parse_budgets(budget))


def points(count: int = 40) -> np.ndarray:
    rng = np.random.default_rng(0)
    corners = [np.ones(4), np.zeros(4), np.full(4, 1e-9), np.full(4, np.nan), np.full(4, 7.0), np.full(4, -3.0)]
    return np.vstack([rng.uniform(0, 1, (count, 4)), rng.uniform(0, 1, (count, 4)) ** 4, corners])


@pytest.mark.parametrize("budget", [*BUDGETS, "50%flops+40%params"])
@pytest.mark.parametrize("multiple_of", [1, 4, 8])
@pytest.mark.parametrize("min_width", [1, 5])
def test_every_point_decodes_to_a_legal_structure_that_uses_the_budget_up(
    budget: str, multiple_of: int, min_width: int
) -> None:
    try:
        space = space_of(budget.split("+"), multiple_of=multiple_of, min_width=min_width)
    except BudgetError:
        assert budget == "12%flops"
        assert multiple_of > 1
        return
    for structure in space.decode(points()):
        for group, width in zip(space.groups, structure.widths, strict=True):
            assert width in group.legal_widths
        assert space.is_legal(structure)
        assert_used_up(space, structure)


def assert_used_up(space: SearchSpace, structure: Structure) -> None:
    """Within 0.5 points below some limit, or without room for one more step of any group."""
    for limit in space.limits:
        room = limit.ceiling - getattr(space.cost(structure), limit.resource)
        assert room >= 0
        if room <= 0.005 * getattr(space.cost_model.dense, limit.resource):
            return
    for index, group in enumerate(space.groups):
        wider = [width for width in group.legal_widths if width > structure.widths[index]]
        if wider:
            widths = list(structure.widths)
            widths[index] = wider[0]
            assert not space.is_legal(Structure(tuple(widths)))


def test_decoding_is_deterministic_and_does_not_depend_on_the_company() -> None:
    space = space_of("40%flops")
    together = space.decode(points())
    assert together == space.decode(points())
    assert together == [space.decode(point[None])[0] for point in points()]


def test_a_decoded_structure_is_a_fixed_point_of_encoding_and_decoding() -> None:
    space = space_of("40%flops")
    for structure in space.decode(points()):
        if space.limits[0].ceiling - space.cost(structure).macs <= 0.005 * space.cost_model.dense.macs:
            assert space.decode(space.encode(structure)[None]) == [structure]


def test_a_band_keeps_points_inside_it_where_they_are_and_brings_the_others_in() -> None:
    space = space_of("20..80%flops")
    shares = []
    for structure in space.decode(points()):
        assert space.is_legal(structure)
        shares.append(space.cost(structure).macs / space.cost_model.dense.macs)
    # One channel of the widest layer may carry a structure below the floor.
    assert min(shares) > 0.17
    assert max(shares) <= 0.8
    assert max(shares) - min(shares) > 0.3
    inside = space.decode([[0.7, 0.7, 0.7, 0.7]])[0]
    assert space.decode(space.encode(inside)[None]) == [inside]


def test_uniform_widths_keep_one_ratio() -> None:
    space = space_of("50%flops")
    ratios = space.encode(space.uniform())
    assert ratios.max() - ratios.min() < 0.08
    assert_used_up(space, space.uniform())


def test_the_whole_budget_leaves_the_dense_network() -> None:
    space = space_of("100%flops")
    assert space.uniform() == space.dense


@pytest.mark.parametrize("reach", [0.05, 0.5])
def test_neighbours_and_samples_are_legal_and_neighbours_are_near(reach: float) -> None:
    space, rng = space_of("50%flops"), np.random.default_rng(1)
    centre = space.uniform()
    for structure in [*space.exchange(centre, rng, count=50, reach=reach), *space.sample(50, rng)]:
        assert space.is_legal(structure)
        assert_used_up(space, structure)
    again = space.exchange(centre, np.random.default_rng(5), count=10, reach=reach)
    assert again == space.exchange(centre, np.random.default_rng(5), count=10, reach=reach)


def test_an_unreachable_budget_names_the_smallest_reachable_cost_and_what_limits_it() -> None:
    groups, cost_model = network(min_width=8)
    least = cost_model.cost(Structure((8, 8, 8, 8))).macs
    with pytest.raises(BudgetError, match=f"{2 * least:,} flops .*most of them in b, c"):
        SearchSpace.build(groups, cost_model, parse_budgets("1%flops"))


def test_a_range_above_the_dense_network_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"The range '2\.\.3Gflops' starts at .*, above the .* of the dense network"):
        space_of("2..3Gflops")
    assert space_of("50..100%flops").is_legal(space_of("100%flops").dense)


@pytest.mark.parametrize("resource", ["flops", "params"])
@pytest.mark.parametrize("further", [[], ["90%params"], ["90%flops"]])
def test_a_range_is_searched_from_what_can_be_reached_and_says_so(resource: str, further: list[str]) -> None:
    if any(resource in budget for budget in further):
        return
    space = space_of([*further, f"5..80%{resource}"], min_width=8)
    [band] = [limit for limit in space.limits if limit.is_band]
    assert band.floor == space.cost(space.smallest).of(band.resource)
    assert band.text == f"5..80%{resource}"
    assert "with every prunable group at its minimum" in (space.unreachable or "")
    assert space_of("50..80%flops", min_width=8).unreachable is None
    assert space_of("50%flops", min_width=8).unreachable is None


def test_a_range_of_which_only_the_upper_end_can_be_reached_stays_a_range() -> None:
    groups, cost_model = network(min_width=8)
    least = cost_model.cost(Structure((8, 8, 8, 8))).params
    space = SearchSpace.build(groups, cost_model, parse_budgets(f"1..{least}params"))
    assert (space.is_band, space.front_resource) == (True, "params")
    assert space.decode(points()) == [space.smallest] * len(points())


def test_the_smallest_reachable_budget_is_reached() -> None:
    groups, cost_model = network(min_width=8)
    least = cost_model.cost(Structure((8, 8, 8, 8))).macs
    space = SearchSpace.build(groups, cost_model, parse_budgets(f"{least}macs"))
    assert space.decode(points()) == [space.smallest] * len(points())


def test_a_network_without_groups_is_refused() -> None:
    with pytest.raises(StructureError, match="no prunable group"):
        SearchSpace.build([], CostModel((), ()), parse_budgets("50%flops"))


def test_legality_is_exact_at_the_limit() -> None:
    groups, cost_model = network()
    structure = Structure((7, 9, 11, 13))
    macs = cost_model.cost(structure).macs
    assert SearchSpace.build(groups, cost_model, parse_budgets(f"{macs}macs")).is_legal(structure)
    assert not SearchSpace.build(groups, cost_model, parse_budgets(f"{macs - 1}macs")).is_legal(structure)


def test_a_structure_of_another_length_or_off_the_multiples_is_not_legal() -> None:
    space = space_of("90%flops", multiple_of=4)
    assert not space.is_legal(Structure((4, 4)))
    assert space.is_legal(Structure((4, 4, 4, 4)))
    assert not space.is_legal(Structure((4, 5, 4, 4)))


def test_projection_comes_as_near_to_the_best_use_of_the_budget_as_brute_force() -> None:
    groups = [PrunableGroup("x", 6), PrunableGroup("y", 6)]
    axes = [AxisWidth(0, ((0, 1),)), AxisWidth(0, ((1, 1),))]
    model = CostModel((6, 6), (LayerTerm("l.weight", 1, 1, axes[0], axes[1]),))
    space = SearchSpace.build(groups, model, parse_budgets("18macs"))
    affordable = {pair for pair in itertools.product(range(1, 7), repeat=2) if pair[0] * pair[1] <= 18}
    for structure in space.sample(50, np.random.default_rng(0)):
        assert structure.widths in affordable
        assert_used_up(space, structure)


def vanishing_space(budget: str, *, multiple_of: int = 1) -> SearchSpace:
    """The first two groups vanish together, the last alone."""
    groups, cost_model = network(multiple_of)
    branches = {0: "a", 1: "a", 3: "d"}
    able = [replace(g, min_width=0, branch=branches[i]) if i in branches else g for i, g in enumerate(groups)]
    return SearchSpace.build(able, cost_model, parse_budgets(budget))


@pytest.mark.parametrize("budget", ["50%flops", "30%flops", "97%flops", "20..80%flops"])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_groups_of_a_branch_vanish_together_and_within_budget(budget, multiple_of):
    space = vanishing_space(budget, multiple_of=multiple_of)
    rng = np.random.default_rng(0)
    proposed = [*space.decode(points()), *space.sample(60, rng)]
    for centre in list(proposed[:5]):
        proposed += space.exchange(centre, rng, count=20, reach=0.3)
    for structure in proposed:
        assert space.is_legal(structure) or space.is_band
        assert (structure.widths[0] == 0) == (structure.widths[1] == 0)
        assert structure.widths[2] > 0
    assert any(structure.widths[0] == 0 for structure in proposed)
    assert any(structure.widths[3] == 0 for structure in proposed)
    assert any(min(structure.widths) > 0 for structure in proposed)


def test_what_is_wished_away_stays_away_and_the_rest_takes_the_budget():
    space = vanishing_space("97%flops")
    [structure] = space.decode([[1.0, 1.0, 1.0, 0.0]])
    assert structure.widths == (16, 24, 40, 0)
    [structure] = space.project([[16, 0.4, 40, 64]])
    assert structure.widths == (0, 0, 40, 64)
    assert space.decode([space.encode(structure)]) == [structure]


def test_half_a_branch_is_not_legal():
    space = vanishing_space("100%flops")
    assert not space.is_legal(Structure((0, 24, 40, 64)))
    assert space.is_legal(Structure((0, 0, 40, 64)))


def test_a_wide_group_can_be_wished_away_too():
    groups = [PrunableGroup("wide", 2048, min_width=0, branch="b"), PrunableGroup("other", 8)]
    terms = (LayerTerm("a.weight", 1, 1, AxisWidth(0, ((0, 1),))), LayerTerm("b.weight", 1, 1, AxisWidth(0, ((1, 1),))))
    space = SearchSpace.build(groups, CostModel((2048, 8), terms), parse_budgets("90%flops"))
    assert space.decode([[0.0, 1.0]]) == [Structure((0, 8))]


def test_without_branches_random_proposals_are_those_of_ever():
    """A search that was recorded before branches could vanish is proposed again."""
    space = space_of("50%flops")
    widths = [structure.widths for structure in space.sample(3, np.random.default_rng(5))]
    points_of_old = np.random.default_rng(5).uniform(0.05, 1.0, (3, 4))
    assert widths == [structure.widths for structure in space.decode(points_of_old)]
