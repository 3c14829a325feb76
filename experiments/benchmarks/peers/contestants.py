"""Who competes: autoprune, uniform widths, random search and Optuna here, the peers in modules of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from autoprune.core.candidate import Evaluation, Merge, Outcome
from autoprune.core.standings import Standings
from autoprune.core.structure import structure_from
from autoprune.report.observer import NullObserver
from autoprune.searching.search.running import searched
from experiments.benchmarks.peers.arena import Arena, Clock, Run, Step
from experiments.benchmarks.peers.plan import Task

Way = Callable[[Arena, Task], Run]

#: The ratios that Optuna may suggest.
_SMALLEST_RATIO = 0.05
#: Suggestions over budget are free, but not without end.
_TRIALS_A_SCORING = 4


@dataclass(frozen=True)
class Contestant:
    """A method of the benchmark.

    Attributes:
        label: in tables and pictures.
        way: what runs it.
        package: that has to be installed for it; "" for none.
        cuts_our_way: whether its widths were chosen for our cut: how they do sliced says nothing of it then.
    """

    label: str
    way: Way
    package: str = ""
    cuts_our_way: bool = False

    @property
    def present(self) -> bool:
        """Whether it can be run here."""
        return not self.package or find_spec(self.package) is not None


class _Trail(NullObserver):
    """Follows the incumbent of a search of ours, on the last rung."""

    def __init__(self, arena: Arena, clock: Clock) -> None:
        self.steps: list[Step] = []
        self.scorings = 0
        self._arena, self._clock = arena, clock
        self._standings = Standings()

    def told(self, outcome: Outcome, *, finished: bool) -> None:
        """Takes a step where the incumbent changes."""
        del finished
        self.scorings += 1
        if not isinstance(outcome, Evaluation):
            return
        before = self._standings.best
        self._standings.tell(outcome)
        if self._standings.best is not before:
            structure = self._arena.widened(outcome.candidate.structure)
            self.steps.append(Step(self.scorings, self._clock.seconds, structure))


def _ours(strategy: str) -> Way:
    """Returns a search by autoprune with its default ladder; every rung is a scoring."""

    def way(arena: Arena, task: Task) -> Run:
        clock = Clock(arena.seconds)
        trail = _Trail(arena, clock)
        prepared = arena.prepared(task.budget, strategy=strategy, candidates=task.entry.evaluations)
        incumbent, _ = searched(prepared, trail)
        facts = {"candidates": task.entry.evaluations, "proposed_by": incumbent.candidate.proposed_by}
        return Run(tuple(trail.steps), trail.scorings, clock.seconds, facts=facts)

    return way


def uniform(arena: Arena, task: Task) -> Run:
    """Keeps the same share of every group inside blocks."""
    clock = Clock()
    structure = arena.widened(arena.prepared(task.budget).space.uniform())
    return Run((Step(1, clock.seconds, structure),), 1, clock.seconds)


def _optuna(merge: Merge) -> Way:
    """Returns multivariate TPE on one retain ratio a group, as it is used without anything else.

    Suggestions over budget are told their excess as a penalty and are not scored.
    """

    def way(arena: Arena, task: Task) -> Run:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        clock = Clock(arena.seconds if merge is not Merge.SLICE else 0.0)
        groups, ceiling = arena.inner.network.groups, arena.ceiling(task.budget)
        sampler = optuna.samplers.TPESampler(multivariate=True, seed=task.seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        steps: list[Step] = []
        scorings, best = 0, -1.0
        for _ in range(_TRIALS_A_SCORING * task.entry.evaluations):
            trial = study.ask()
            ratios = [trial.suggest_float(group.name, _SMALLEST_RATIO, 1.0) for group in groups]
            widths = [max(1, round(ratio * group.width)) for ratio, group in zip(ratios, groups, strict=True)]
            structure = arena.widened(structure_from(widths, groups))
            excess = arena.macs(structure) / ceiling - 1
            if excess > 0:
                study.tell(trial, -excess)
                continue
            score = arena.score(structure, merge).score
            study.tell(trial, score)
            scorings += 1
            if score > best:
                best = score
                steps.append(Step(scorings, clock.seconds, structure))
            if scorings == task.entry.evaluations:
                break
        return Run(tuple(steps), scorings, clock.seconds, facts={"trials": len(study.trials)})

    return way


def _peer(module: str, *arguments: object) -> Way:
    """Returns a peer, imported when it is run."""

    def way(arena: Arena, task: Task) -> Run:
        run: Run = import_module(f"experiments.benchmarks.peers.{module}").run(arena, task, *arguments)
        return run

    return way


OURS = "auto"
CONTESTANTS: dict[str, Contestant] = {
    OURS: Contestant("autoprune", _ours("auto")),
    "fastnas": Contestant("FastNAS", _peer("fastnas"), "modelopt"),
    "fastnas-cut": Contestant(
        "FastNAS, our score", _peer("fastnas", Merge.LEAST_SQUARES), "modelopt", cuts_our_way=True
    ),
    "torch-pruning": Contestant("Torch-Pruning", _peer("torchpruning"), "torch_pruning"),
    "optuna": Contestant("Optuna", _optuna(Merge.SLICE)),
    "optuna-cut": Contestant("Optuna, our score", _optuna(Merge.SEQUENTIAL), cuts_our_way=True),
    "random": Contestant("random", _ours("random"), cuts_our_way=True),
    "uniform": Contestant("uniform", uniform),
}
