"""What is evaluated and what comes back: fidelities, candidates, evaluations, failures.

A candidate climbs a *ladder* of fidelities, each dearer and truer than the one before; after every rung the study
decides whether it climbs on. A candidate that cannot be evaluated yields a `Failure`, never an exception.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from autoprune.core.cost import Cost
from autoprune.core.structure import Structure
from autoprune.errors import ConfigError, one_line

#: Characters of why a candidate failed.
LONGEST_REASON = 300


class Merge(StrEnum):
    """How the consumers of a cut group take over what the dropped channels carried."""

    SLICE = "slice"
    LEAST_SQUARES = "least-squares"
    SEQUENTIAL = "sequential"


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How much compute an evaluation spends.

    Attributes:
        level: position on the ladder, 0 the cheapest.
        name: short name shown to people, for example `least-squares`.
        merge: how the network is cut before it is scored.
        calibration_images: images that statistics and reconstructions are fitted on.
        holdout_images: images that the score is taken on.
        epochs: finetuning with distillation from the dense network before scoring; 0 for none.
    """

    level: int
    name: str
    merge: Merge
    calibration_images: int
    holdout_images: int
    epochs: float = 0.0


@dataclass(frozen=True, slots=True)
class Ladder:
    """The fidelities a candidate may climb.

    Attributes:
        rungs: in ascending order; `rungs[i].level == i`.
        keep: after a rung, about one in `keep` candidates climbs on (asynchronous successive halving).
    """

    rungs: tuple[Fidelity, ...]
    keep: float = 3.0

    def __post_init__(self) -> None:
        if not self.rungs or [rung.level for rung in self.rungs] != list(range(len(self.rungs))):
            raise ConfigError("A ladder needs at least one rung, numbered 0, 1, 2, ... in order.")
        if self.keep < 1:
            raise ConfigError(f"A ladder keeps one candidate in {self.keep:g}. Write a number of at least 1.")

    @property
    def top(self) -> Fidelity:
        """The dearest fidelity."""
        return self.rungs[-1]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One proposal, ready to be evaluated.

    Attributes:
        id: 0, 1, 2, ... in the order of proposal.
        structure: the widths to try.
        cost: their exact cost.
        fidelity: the rung to evaluate at.
        seed: seed of everything random in the evaluation: a function of the search seed and the id alone.
        proposed_by: the strategy or heuristic that proposed it.
        legal: whether it lies within every budget; some strategies probe beyond, and what lies there is no result.
    """

    id: int
    structure: Structure
    cost: Cost
    fidelity: Fidelity
    seed: int
    proposed_by: str
    legal: bool = True


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one rung said of a candidate.

    Attributes:
        candidate: whose fidelity says which rung it was.
        score: in [0, 1], higher is better; what strategies maximise and the incumbent is chosen by.
        accuracy: top-1 on the hold-out, in [0, 1].
        metrics: further finite numbers worth logging.
        seconds: wall time of the evaluation.
        worker: which worker evaluated it.
        reused: whether the result was found in a cache rather than computed.
    """

    candidate: Candidate
    score: float
    accuracy: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    worker: str = "main"
    reused: bool = False

    def __post_init__(self) -> None:
        for name, value in (("score", self.score), ("accuracy", self.accuracy)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} {value!r} of candidate {self.candidate.id} does not lie in [0, 1].")
        if not all(math.isfinite(value) for value in self.metrics.values()):
            raise ValueError(f"Metrics of candidate {self.candidate.id} are not finite: {dict(self.metrics)}.")

    @property
    def merit(self) -> float:
        """The score on one scale for all rungs: a candidate that climbed higher was better below.

        Only comparisons of merits mean something, not their differences.
        """
        return self.candidate.fidelity.level + self.score


@dataclass(frozen=True, slots=True)
class Failure:
    """A candidate that could not be evaluated.

    Attributes:
        candidate: at the rung that failed.
        reason: one line: what happened.
        seconds: wall time until it failed.
        worker: which worker tried.
    """

    candidate: Candidate
    reason: str
    seconds: float = 0.0
    worker: str = "main"

    @classmethod
    def of(cls, candidate: Candidate, why: BaseException | str, *, seconds: float, worker: str) -> Failure:
        """Returns the failure that an exception, or whatever else went wrong, is: one line of bearable length."""
        reason = one_line(why) if isinstance(why, BaseException) else why
        return cls(candidate, reason[:LONGEST_REASON], seconds=seconds, worker=worker)


Outcome = Evaluation | Failure
