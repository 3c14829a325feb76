from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from autoprune.core.candidate import Candidate, Evaluation
from autoprune.core.seams import Strategy
from autoprune.core.structure import Structure
from autoprune.strategies import make_strategy, strategy_names
from autoprune.testing import check_strategy, resnet_landscape


@pytest.mark.parametrize("name", [name for name in strategy_names() if name != "gp"])
def test_every_strategy_keeps_the_promises_of_the_seam(name: str) -> None:
    check_strategy(partial(make_strategy, name), candidates=12, over_budget=name == "sensitivity")


@pytest.mark.slow
def test_the_gaussian_process_of_optuna_keeps_them_too() -> None:
    pytest.importorskip("torch")
    check_strategy(partial(make_strategy, "gp"), candidates=8)


@pytest.mark.parametrize("name", ["auto", "random", "pso", "tpe", "sensitivity"])
def test_a_profile_is_no_condition_for_strategies_that_learn(name: str) -> None:
    space = resnet_landscape(seed=0, blocks=1).space
    strategy = make_strategy(name, space=space, profile=None, seed=1, candidates=10)
    assert isinstance(strategy.ask(0), Structure)


class _Repeating:
    name = "repeating"

    def __init__(self, *, space, profile, seed, candidates) -> None:
        self._structure = space.uniform()

    def ask(self, candidate_id):
        return self._structure

    def tell(self, outcome) -> None:
        pass


class _Wasteful(_Repeating):
    def __init__(self, *, space, profile, seed, candidates) -> None:
        self._structure = space.dense


class _Forgetful(_Repeating):
    made = 0

    def __init__(self, *, space, profile, seed, candidates) -> None:
        type(self).made += 1
        widths = list(space.smallest.widths)
        widths[0] += type(self).made % 5
        self._structure = Structure(tuple(widths))


@pytest.mark.parametrize(
    ("broken", "message"),
    [(_Repeating, "proposed twice"), (_Wasteful, "over budget"), (_Forgetful, "other proposals")],
)
def test_the_suite_notices_broken_promises(broken: type[Strategy], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_strategy(broken, candidates=4)


@pytest.mark.parametrize("name", [name for name in strategy_names() if name not in ("gp", "sensitivity")])
def test_every_strategy_proposes_legal_structures_where_branches_may_vanish(name: str) -> None:
    landscape = resnet_landscape(seed=1, blocks=1, budget="35%flops")
    groups = tuple(replace(group, min_width=0, branch=group.name) for group in landscape.space.groups)
    space = replace(landscape.space, groups=groups)
    strategy = make_strategy(name, space=space, profile=landscape.profile, seed=1, candidates=12)
    rng = np.random.default_rng(0)
    for identity in range(12):
        structure = strategy.ask(identity)
        if structure is None:
            return
        assert space.is_legal(structure)
        assert all(width in group.legal_widths for group, width in zip(groups, structure.widths, strict=True))
        fidelity = landscape.ladder.rungs[0]
        candidate = Candidate(identity, structure, space.cost(structure), fidelity, identity, name)
        strategy.tell(Evaluation(candidate, score=float(rng.random()), accuracy=0.5))
