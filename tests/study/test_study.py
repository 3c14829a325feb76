"""The passive study: order, climbing, duplicates, endings."""

from collections import Counter
from dataclasses import replace

import pytest
from toy_search import (
    Events,
    GenerationStrategy,
    RandomStrategy,
    ScriptedStrategy,
    build_ladder,
    build_space,
    build_study,
    other_structures,
    run_by_hand,
)

from autoprune.core.candidate import Evaluation, Failure
from autoprune.core.seeds import derive_seed
from autoprune.errors import ConfigError, RunError, StructureError
from tests.core.dominance import is_dominated


def tell(study, candidate, score):
    return study.tell(Evaluation(candidate, score, score))


def test_the_same_asks_and_tells_give_the_same_candidates():
    first, second = Events(), Events()
    run_by_hand(build_study(trackers=[first]))
    run_by_hand(build_study(trackers=[second]))
    assert first.events == second.events


def test_ids_count_up_and_seeds_follow_from_them():
    study = build_study()
    run_by_hand(study)
    asked = [study.ladder_of(number)[0].candidate for number in range(study.proposed)]
    assert [candidate.id for candidate in asked] == list(range(20))
    assert [candidate.seed for candidate in asked] == [derive_seed(7, "candidate", number) for number in range(20)]


def test_no_structure_is_evaluated_twice_at_a_rung():
    space = build_space()
    study = build_study(space=space, strategy=GenerationStrategy(space), candidates=60)
    steps = run_by_hand(study)
    assert max(Counter((candidate.structure, candidate.fidelity) for candidate, _ in steps).values()) == 1
    assert study.proposed == 60


def test_baselines_come_first_and_climb_every_rung():
    space = build_space()
    low, high = other_structures(space, 2)
    study = build_study(space=space, baselines=[("low", low), ("high", high), ("again", low)])
    run_by_hand(study, score=lambda candidate: 0.0 if candidate.structure in (low, high) else 0.9)
    assert [study.ladder_of(number)[0].candidate.proposed_by for number in range(3)] == ["low", "high", "toy"]
    assert [len(study.ladder_of(number)) for number in range(2)] == [3, 3]


def test_when_done_the_best_of_every_rung_have_climbed():
    study = build_study(candidates=40)
    run_by_hand(study)
    assert study.done
    for level in range(2):
        seen = [e for e in study.evaluations if e.candidate.fidelity.level == level]
        climbed = {e.candidate.id for e in study.evaluations if e.candidate.fidelity.level == level + 1}
        best = sorted(seen, key=lambda e: -e.score)[: -(-len(seen) // 3)]
        assert {e.candidate.id for e in best} <= climbed
        assert len(climbed) < len(seen) * 0.75


def test_a_late_promotion_keeps_its_id_and_is_told_to_the_strategy_only_once():
    space = build_space()
    strategy = RandomStrategy(space)
    study = build_study(space=space, strategy=strategy, candidates=12, ladder=build_ladder(2, keep=2), baselines=[])
    # Falling scores: nobody is in the top half when told, but half of them are in the end.
    run_by_hand(study, score=lambda candidate: 1 - candidate.id / 20)
    at_top = [e.candidate.id for e in study.evaluations if e.candidate.fidelity.level == 1]
    assert sorted(at_top) == list(range(6))
    heard = Counter(outcome.candidate.id for outcome in strategy.told)
    assert set(heard) == set(strategy.asked)
    assert max(heard.values()) == 1


def test_a_late_promotion_is_offered_while_the_strategy_waits():
    space = build_space()
    structures = other_structures(space, 6)
    strategy = ScriptedStrategy([*structures[:5], None])
    study = build_study(space=space, strategy=strategy, ladder=build_ladder(2, keep=2), baselines=[])
    candidates = [study.ask() for _ in range(5)]
    climbs = [
        tell(study, candidate, score) is not None
        for candidate, score in zip(candidates[:4], (0.9, 0.8, 0.7, 0.1), strict=True)
    ]
    assert climbs == [True, True, False, False]
    tell(study, replace(candidates[0], fidelity=study.ladder.top), 0.9)
    tell(study, replace(candidates[1], fidelity=study.ladder.top), 0.9)
    assert tell(study, candidates[4], 0.0) is None
    promoted = study.ask()
    assert (promoted.id, promoted.fidelity.level) == (2, 1)


def test_a_structure_over_budget_stops_at_the_first_rung_and_never_wins():
    space = build_space()
    strategy = ScriptedStrategy([space.dense, *other_structures(space, 4)])
    study = build_study(space=space, strategy=strategy, candidates=6)
    run_by_hand(study, score=lambda candidate: 1.0 if candidate.structure == space.dense else 0.5)
    assert len(study.ladder_of(1)) == 1
    assert [e.candidate.legal for e in study.evaluations[:4]] == [True] * 3 + [False]
    assert study.incumbent.candidate.structure != space.dense
    assert all(space.is_legal(e.candidate.structure) for e in study.front)


def test_a_known_structure_costs_no_candidate_and_its_result_is_told_at_once():
    space = build_space()
    first, second = other_structures(space, 2)
    strategy = ScriptedStrategy([first, first, space.uniform(), second])
    study = build_study(space=space, strategy=strategy, candidates=3, ladder=build_ladder(1))
    run_by_hand(study, score=lambda candidate: 0.25 if candidate.structure == first else 0.5)
    assert study.proposed == 3
    told = [(o.candidate.structure, o.score, o.reused) for o in strategy.told]
    assert told == [(first, 0.25, False), (first, 0.25, True), (space.uniform(), 0.5, True), (second, 0.5, False)]
    assert len(study.evaluations) == 3


def test_a_pending_structure_proposed_again_is_told_twice_when_it_is_known():
    space = build_space()
    first, second = other_structures(space, 2)
    strategy = ScriptedStrategy([first, first, second])
    study = build_study(space=space, strategy=strategy, ladder=build_ladder(1), baselines=[])
    one, two = study.ask(), study.ask()
    assert (one.structure, two.structure) == (first, second)
    assert strategy.told == []
    tell(study, one, 0.5)
    assert [outcome.candidate.structure for outcome in strategy.told] == [first, first]


def test_a_strategy_that_repeats_itself_is_replaced_by_neighbours_of_the_best():
    space = build_space()
    stuck = other_structures(space, 1)[0]
    strategy = ScriptedStrategy([stuck] * 1000)
    study = build_study(space=space, strategy=strategy, candidates=8, ladder=build_ladder(1))
    steps = run_by_hand(study)
    assert [candidate.proposed_by for candidate, _ in steps] == ["uniform", "toy", *["toy+exchange"] * 6]
    assert len({candidate.structure for candidate, _ in steps}) == 8
    assert {outcome.candidate.structure for outcome in strategy.told} == {stuck}


def test_a_space_without_further_structures_ends_the_study():
    space = build_space(widths=(3, 4))
    study = build_study(space=space, strategy=ScriptedStrategy([space.uniform()] * 500), candidates=50)
    run_by_hand(study)
    assert study.done
    assert 1 < study.proposed < 50


def test_nothing_is_asked_while_the_strategy_waits_and_it_is_not_pestered():
    space = build_space()
    strategy = GenerationStrategy(space, size=2)
    study = build_study(space=space, strategy=strategy, ladder=build_ladder(1), baselines=[])
    first, second = study.ask(), study.ask()
    assert study.ask() is None
    assert not study.done
    strategy.ask = lambda _: pytest.fail("asked again before a tell")
    assert study.ask() is None
    del strategy.ask
    tell(study, first, 0.5)
    assert study.ask() is None
    tell(study, second, 0.5)
    assert study.ask() is not None


def test_a_strategy_with_nothing_left_ends_the_study():
    space = build_space()
    study = build_study(space=space, strategy=ScriptedStrategy(other_structures(space, 3)), ladder=build_ladder(1))
    run_by_hand(study)
    assert (study.proposed, study.done) == (4, True)


def test_a_failure_is_final_and_told_to_the_strategy():
    space = build_space()
    strategy = RandomStrategy(space)
    study = build_study(space=space, strategy=strategy)
    tell(study, study.ask(), 0.5)
    candidate = study.ask()
    assert study.tell(Failure(candidate, "diverged")) is None
    assert [outcome.reason for outcome in strategy.told] == ["diverged"]
    assert study.failures[0].candidate == candidate


def test_a_search_in_which_everything_fails_alike_stops_early_and_says_why():
    study = build_study(candidates=500)
    while not study.done:
        candidate = study.ask()
        study.tell(Failure(candidate, f"out of memory: tried to allocate {candidate.id} MiB"))
    assert study.proposed == 20
    assert study.stopped_because == (
        "All of the first 20 candidates failed for the same reason: out of memory: tried to allocate 0 MiB"
    )


def test_a_short_search_in_which_everything_fails_says_why_as_well():
    study = build_study(candidates=3)
    while not study.done:
        study.tell(Failure(study.ask(), "no images"))
    assert study.stopped_because == "All of the first 3 candidates failed for the same reason: no images"


def test_one_success_or_another_reason_keeps_the_search_going():
    study = build_study(candidates=30)
    while not study.done:
        candidate = study.ask()
        study.tell(Failure(candidate, "no images" if candidate.id else "diverged"))
    assert (study.proposed, study.stopped_because) == (30, None)


def test_the_incumbent_is_the_best_of_the_highest_rung_and_the_front_is_undominated():
    study = build_study(candidates=40)
    run_by_hand(study)
    top = [e for e in study.evaluations if e.candidate.fidelity == study.ladder.top]
    assert study.incumbent.score == max(e.score for e in top)
    pairs = [(e.score, e.candidate.cost.macs) for e in top]
    assert all(not is_dominated(e.score, e.candidate.cost.macs, pairs) for e in study.front)


def test_equal_scores_are_decided_by_cost_and_then_by_age():
    study = build_study(candidates=12, ladder=build_ladder(1))
    run_by_hand(study, score=lambda _: 0.5)
    best = min(study.evaluations, key=lambda e: (e.candidate.cost.macs, e.candidate.id))
    assert study.incumbent == best


def test_equal_scores_are_decided_by_what_the_front_trades():
    study = build_study(space=build_space("20..80%params"), candidates=12, ladder=build_ladder(1))
    run_by_hand(study, score=lambda _: 0.5)
    best = min(study.evaluations, key=lambda e: (e.candidate.cost.params, e.candidate.id))
    assert study.incumbent == best
    assert study.front.evaluations == (best,)


def test_over_a_band_the_cheap_end_climbs_as_well():
    space = build_space("20..80%flops")
    study = build_study(space=space, candidates=60, ladder=build_ladder(2), baselines=[])
    # The dearer, the better: by score alone only the dear end would climb.
    run_by_hand(study, score=lambda candidate: candidate.cost.macs / space.cost_model.dense.macs)
    shares = [e.candidate.cost.macs / space.cost_model.dense.macs for e in study.front]
    assert min(shares) < 0.4 < 0.6 < max(shares)


def test_an_outcome_that_nobody_asked_for_is_refused():
    study = build_study()
    candidate = study.ask()
    with pytest.raises(RunError, match="candidate 0 at rung 1"):
        tell(study, replace(candidate, fidelity=study.ladder.rungs[1]), 0.5)
    with pytest.raises(RunError, match="candidate 5"):
        tell(study, replace(candidate, id=5), 0.5)


def test_widths_that_do_not_fit_are_refused_with_the_name_of_the_strategy():
    space = build_space()
    wrong = replace(space.dense, widths=(9, 16, 32))
    study = build_study(space=space, strategy=ScriptedStrategy([wrong]), baselines=[])
    with pytest.raises(StructureError, match=r"'toy' proposed the widths \(9, 16, 32\)"):
        study.ask()


def test_a_search_needs_a_candidate():
    with pytest.raises(ConfigError, match="0 candidates"):
        build_study(candidates=0)
