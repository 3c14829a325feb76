"""What every strategy must hold, as one call: `check_strategy(make)` from a test of your own.

Raises AssertionError with a sentence that says which promise is broken. Needs no test framework.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from autoprune.core.candidate import Candidate, Evaluation, Failure, Outcome
from autoprune.core.profile import ModelProfile
from autoprune.core.seams import Strategy
from autoprune.core.seeds import derive_seed, generator
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.testing.landscape import Landscape, resnet_landscape


class StrategyFactory(Protocol):
    """Builds a strategy: a class or `functools.partial(make_strategy, name)`."""

    def __call__(self, *, space: SearchSpace, profile: ModelProfile | None, seed: int, candidates: int) -> Strategy:
        """Returns a new strategy."""
        ...


Judge = Callable[[Candidate, Landscape], Outcome]


def check_strategy(make: StrategyFactory, *, candidates: int = 24, over_budget: bool = False) -> None:
    """Checks a strategy against every promise of the seam.

    Args:
        make: builds a strategy from `space`, `profile`, `seed`, `candidates`.
        candidates: proposals per check.
        over_budget: whether some proposals may cost more than the budget on purpose (probes of one group).

    Raises:
        AssertionError: a promise is broken.
    """
    single = resnet_landscape(seed=1, blocks=2)
    coupled = resnet_landscape(seed=2, blocks=2, coupled=True, rungs=2, budget=("45%flops", "60%params"))
    band = resnet_landscape(seed=3, blocks=1, budget="20..80%flops")
    for landscape in (single, coupled, band):
        first = _Dialogue(make, landscape, candidates=candidates, workers=3).run(_judged)
        again = _Dialogue(make, landscape, candidates=candidates, workers=3).run(_judged)
        assert first.proposals == again.proposals, "The same seed, asks and tells gave other proposals."
        assert first.proposals, "Nothing was proposed at all."
        first.check_structures(over_budget=over_budget)
    for judge in (_failing_often, _failing_always, _flat):
        _Dialogue(make, single, candidates=candidates, workers=4).run(judge).check_structures(over_budget=over_budget)
    one_by_one = _Dialogue(make, single, candidates=candidates, workers=1).run(_judged)
    one_by_one.check_structures(over_budget=over_budget)
    tiny = _Dialogue(make, resnet_landscape(seed=4, blocks=1), candidates=1, workers=2).run(_judged)
    assert len(tiny.proposals) <= 1, "More was proposed than asked for."


class _Dialogue:
    """Asks and tells in a shuffled order, as workers of unequal speed would finish."""

    def __init__(self, make: StrategyFactory, landscape: Landscape, *, candidates: int, workers: int) -> None:
        self._landscape = landscape
        self._candidates = candidates
        self._workers = workers
        self._strategy = make(space=landscape.space, profile=landscape.profile, seed=7, candidates=candidates)
        self.proposals: list[Structure] = []

    def run(self, judge: Judge) -> _Dialogue:
        """Returns itself after the search has ended."""
        assert isinstance(self._strategy.name, str), "A strategy has a `name`."
        assert self._strategy.name, "The name of a strategy is empty."
        rng = generator(11, "order", self._workers)
        pending: list[Candidate] = []
        while True:
            while len(pending) < self._workers and len(self.proposals) < self._candidates:
                structure = self._strategy.ask(len(self.proposals))
                if structure is None:
                    break
                pending.append(self._candidate(structure))
                self.proposals.append(structure)
            if not pending:
                # None with nothing pending: exhausted. It must stay so.
                if len(self.proposals) < self._candidates:
                    again = self._strategy.ask(len(self.proposals))
                    assert again is None, "A strategy that had nothing left proposed again without being told."
                return self
            candidate = pending.pop(int(rng.integers(len(pending))))
            self._strategy.tell(judge(candidate, self._landscape))

    def check_structures(self, *, over_budget: bool) -> None:
        """Asserts that every proposal is a legal structure within budget, and none came twice."""
        space = self._landscape.space
        for structure in self.proposals:
            assert isinstance(structure, Structure), f"{structure!r} is not a Structure."
            assert len(structure) == space.dimension, f"{structure} has not one width per group."
            for group, width in zip(space.groups, structure.widths, strict=True):
                assert width in group.legal_widths, f"Width {width} of group {group.name!r} is not legal."
            assert over_budget or space.is_legal(structure), f"{structure} is over budget."
        assert len(set(self.proposals)) == len(self.proposals), "A structure was proposed twice."

    def _candidate(self, structure: Structure) -> Candidate:
        identity = len(self.proposals)
        rungs = self._landscape.ladder.rungs
        return Candidate(
            id=identity,
            structure=structure,
            cost=self._landscape.space.cost(structure),
            fidelity=rungs[identity % len(rungs)],
            seed=derive_seed(7, identity),
            proposed_by=self._strategy.name,
        )


def _judged(candidate: Candidate, landscape: Landscape) -> Outcome:
    return landscape.evaluate(candidate)


def _failing_often(candidate: Candidate, landscape: Landscape) -> Outcome:
    return Failure(candidate, "diverged") if candidate.id % 3 == 0 else landscape.evaluate(candidate)


def _failing_always(candidate: Candidate, landscape: Landscape) -> Outcome:  # noqa: ARG001 - the type of a judge
    return Failure(candidate, "out of memory")


def _flat(candidate: Candidate, landscape: Landscape) -> Outcome:  # noqa: ARG001 - the type of a judge
    return Evaluation(candidate, score=0.1, accuracy=0.1)
