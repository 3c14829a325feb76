"""Synthetic candidates of a network of three groups, without torch."""

from __future__ import annotations

from autoprune.core.candidate import Candidate, Evaluation, Failure, Fidelity, Merge
from autoprune.core.cost import Cost
from autoprune.core.structure import PrunableGroup, Structure

GROUPS = tuple(PrunableGroup(name, width) for name, width in (("conv1", 16), ("layer1.0.conv1", 32), ("odd<name>", 64)))
DENSE = Cost(macs=112_000, params=1_120)
RUNGS = (
    Fidelity(0, "least-squares", Merge.LEAST_SQUARES, 64, 100),
    Fidelity(1, "sequential", Merge.SEQUENTIAL, 64, 100),
)


def candidate(number: int, *, widths: tuple[int, int, int] = (8, 16, 32), level: int = 0, by: str = "pso") -> Candidate:
    cost = Cost(macs=1_000 * sum(widths), params=10 * sum(widths))
    return Candidate(number, Structure(widths), cost, RUNGS[level], seed=number, proposed_by=by)


def evaluation(
    number: int,
    score: float = 0.5,
    *,
    widths: tuple[int, int, int] = (8, 16, 32),
    level: int = 0,
    by: str = "pso",
    seconds: float = 1.0,
) -> Evaluation:
    subject = candidate(number, widths=widths, level=level, by=by)
    return Evaluation(subject, score=score, accuracy=score, metrics={"divergence": 0.25}, seconds=seconds)


def failure(number: int, reason: str = "out of memory") -> Failure:
    return Failure(candidate(number), reason=reason, seconds=0.5)
