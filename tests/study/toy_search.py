"""A search small enough to reason about: three groups, random proposals, and a score that is a formula."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from autoprune.core.budget import parse_budgets
from autoprune.core.candidate import Evaluation, Failure, Fidelity, Ladder, Merge
from autoprune.core.cost import AxisWidth, CostModel, LayerTerm
from autoprune.core.seeds import generator
from autoprune.core.space import SearchSpace
from autoprune.core.structure import PrunableGroup, Structure
from autoprune.study import Study


def build_space(budget="50%flops", widths=(8, 16, 32)):
    """Returns the space of a chain of convolutions."""
    groups = [PrunableGroup(f"conv{index}", width) for index, width in enumerate(widths)]
    axes = [AxisWidth(3), *(AxisWidth(0, ((index, 1),)) for index in range(len(widths)))]
    terms = tuple(
        LayerTerm(f"conv{index}.weight", size=9, uses=64, out=axes[index + 1], inner=axes[index])
        for index in range(len(widths))
    )
    return SearchSpace.build(groups, CostModel(tuple(widths), terms), parse_budgets(budget))


def build_ladder(rungs=3, keep=3.0):
    merges = (Merge.SLICE, Merge.LEAST_SQUARES, Merge.SEQUENTIAL)
    return Ladder(tuple(Fidelity(level, f"rung{level}", merges[level], 64, 64) for level in range(rungs)), keep=keep)


class RandomStrategy:
    """Proposes projected random points; the same ones for the same ids."""

    name = "toy"

    def __init__(self, space, seed=0):
        self.space, self.seed = space, seed
        self.asked, self.told = {}, []

    def ask(self, candidate_id):
        self.asked[candidate_id] = self.space.sample(1, generator(self.seed, "toy", candidate_id))[0]
        return self.asked[candidate_id]

    def tell(self, outcome):
        assert self.asked[outcome.candidate.id] == outcome.candidate.structure
        self.told.append(outcome)


class ScriptedStrategy(RandomStrategy):
    """Proposes what a list says, None for None, and nothing after its end."""

    def __init__(self, script):
        self.script = list(script)
        self.asked, self.told = {}, []

    def ask(self, candidate_id):
        structure = self.script.pop(0) if self.script else None
        if structure is not None:
            assert candidate_id not in self.asked
            self.asked[candidate_id] = structure
        return structure


class GenerationStrategy(RandomStrategy):
    """Proposes in generations, each around the best of the one before: it waits, and what it hears matters."""

    def __init__(self, space, size=4, seed=0):
        super().__init__(space, seed)
        self.size, self.left, self.open, self.generation = size, 0, 0, []
        self.best = None

    def ask(self, candidate_id):
        if self.left == 0 and self.open:
            return None
        if self.left == 0:
            self.left = self.size
            if self.generation:
                self.best = max(self.generation, key=lambda o: getattr(o, "score", -1.0)).candidate.structure
            self.generation = []
        rng = generator(self.seed, "toy", candidate_id)
        if self.best is None:
            structure = self.space.sample(1, rng)[0]
        else:
            structure = self.space.exchange(self.best, rng, count=1, reach=0.5)[0]
        self.left, self.open = self.left - 1, self.open + 1
        self.asked[candidate_id] = structure
        return structure

    def tell(self, outcome):
        super().tell(outcome)
        self.open -= 1
        self.generation.append(outcome)


def score_of(candidate, weights):
    """A smooth function of the widths, a little different on every rung."""
    kept = np.asarray(candidate.structure.widths) / np.asarray([8, 16, 32][: len(candidate.structure)])
    wave = 0.05 * np.sin(sum(candidate.structure.widths) + candidate.fidelity.level)
    return float(np.clip((weights[: len(kept)] * np.sqrt(kept)).sum() / weights[: len(kept)].sum() * 0.9 + wave, 0, 1))


@dataclass
class ToyEvaluator:
    """Scores by formula, and misbehaves on demand."""

    weights: np.ndarray
    worker: str
    seconds: float = 0.0
    raises: tuple[int, ...] = ()
    dies: tuple[tuple[int, int], ...] = ()
    folder: str = ""
    hangs: tuple[int, ...] = ()

    def evaluate(self, candidate):
        assert not self.weights.flags.writeable
        if candidate.id in self.raises:
            raise ArithmeticError(f"candidate {candidate.id} diverged\nand more")
        for candidate_id, times in self.dies:
            marks = list(Path(self.folder).glob(f"{candidate_id}-*")) if self.folder else []
            if candidate_id == candidate.id and len(marks) < times:
                (Path(self.folder) / f"{candidate_id}-{len(marks)}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600 if candidate.id in self.hangs else self.seconds)
        score = score_of(candidate, self.weights)
        return Evaluation(candidate, score, score, {"seed": candidate.seed}, seconds=self.seconds, worker=self.worker)


@dataclass
class ToyFactory:
    """Builds `ToyEvaluator`s with the same options."""

    options: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=lambda: {"weights": np.asarray([1.0, 2.0, 3.0])})
    broken: bool = False

    def build(self, arrays, *, worker):
        if self.broken:
            raise RuntimeError("no such images\nat all")
        return ToyEvaluator(arrays["weights"], worker, **self.options)

    def for_workers(self, *, gpu):
        return replace(self, arrays={})


@dataclass
class RelapsingFactory(ToyFactory):
    """Builds for every worker once; when that has died, it fails so many times: its memory is still taken."""

    relapses: int = 0

    def build(self, arrays, *, worker):
        folder = Path(self.options["folder"])
        before = len(list(folder.glob(f"{worker}-*")))
        (folder / f"{worker}-{before}").touch()
        if 1 <= before <= self.relapses:
            raise RuntimeError("out of memory")
        return super().build(arrays, worker=worker)


@dataclass
class SeeingEvaluator:
    """An evaluator that says as metrics which GPU its process is shown, -1 for none, and how many threads torch has."""

    inner: ToyEvaluator
    gpu: bool

    def evaluate(self, candidate):
        import torch

        found = self.inner.evaluate(candidate)
        shown = float(os.environ.get("CUDA_VISIBLE_DEVICES") or "-1")
        seen = {"shown": shown, "gpu": float(self.gpu), "threads": float(torch.get_num_threads())}
        return replace(found, metrics={**found.metrics, **seen})


@dataclass
class SeeingFactory(ToyFactory):
    """Builds evaluators that say which GPU they see, and whether they were made for one."""

    gpu: bool = False

    def build(self, arrays, *, worker):
        return SeeingEvaluator(super().build(arrays, worker=worker), self.gpu)

    def for_workers(self, *, gpu):
        return replace(self, arrays={}, gpu=gpu)


class Events:
    """A tracker that remembers; what clocks and workers add is left out."""

    def __init__(self):
        self.events = []

    def asked(self, candidate):
        self.events.append(("asked", candidate))

    def told(self, outcome, *, finished):
        said = outcome.reason if isinstance(outcome, Failure) else (outcome.score, dict(outcome.metrics))
        self.events.append(("told", outcome.candidate, said, finished))


def build_study(**options):
    space = options.pop("space", None) or build_space()
    strategy = options.pop("strategy", None) or RandomStrategy(space)
    ladder = options.pop("ladder", None) or build_ladder()
    baselines = options.pop("baselines", [("uniform", space.uniform())])
    settings = {"candidates": 20, "seed": 7, "baselines": baselines, **options}
    return Study(space, strategy, ladder, **settings)


def run_by_hand(study, score=None, limit=10_000):
    """Drives a study one candidate at a time; returns the (candidate, next rung) pairs."""
    weights = np.asarray([1.0, 2.0, 3.0])
    steps = []
    while not study.done and len(steps) < limit:
        candidate = study.ask()
        while candidate is not None:
            value = score_of(candidate, weights) if score is None else score(candidate)
            rung = study.tell(Evaluation(candidate, value, value))
            steps.append((candidate, rung))
            candidate = None if rung is None else replace(candidate, fidelity=rung)
    return steps


def other_structures(space, count):
    """Returns distinct structures within budget."""
    found = {}
    rng = np.random.default_rng(3)
    while len(found) < count:
        found.update(dict.fromkeys(space.sample(8, rng)))
    return [Structure(structure.widths) for structure in list(found)[:count]]
