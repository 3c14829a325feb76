"""What a search tells of itself: its progress, who found what, and how well the first rung foretold the last.

Notation:
    n     candidates that were scored on both rungs
    C, D  pairs of them that both rungs order alike, and that they order differently
    T, U  pairs tied on the first and on the last rung alone
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.core.candidate import Evaluation
from autoprune.core.cost import Cost
from autoprune.core.standings import Standings
from autoprune.study.ledger import Event


def progress_of(evaluations: Sequence[Evaluation], *, dense: Cost, resource: str = "macs") -> list[dict[str, Any]]:
    """Returns where the search stood after each candidate: a step a candidate, counted as they were first told.

    Args:
        evaluations: in the order in which they were told; those over budget count for nothing.
        dense: cost of the dense network.
        resource: that the front trades for accuracy.

    Returns:
        `{"candidates", "level", "incumbent", "score", "accuracy", "hypervolume", "front"}`; what later rungs said of
        a candidate counts to the step in which they said it. Where `level` rises the scores before do not compare.
    """
    standings = Standings(resource)
    seen: set[int] = set()
    steps: list[dict[str, Any]] = []
    for evaluation in evaluations:
        standings.tell(evaluation)
        best, front = standings.best, standings.front
        if best is None or not evaluation.candidate.legal:
            continue
        seen.add(evaluation.candidate.id)
        step = {
            "candidates": len(seen),
            "level": best.candidate.fidelity.level,
            "incumbent": best.candidate.id,
            "score": best.score,
            "accuracy": best.accuracy,
            "hypervolume": front.hypervolume(dense),
            "front": len(front),
        }
        if steps and steps[-1]["candidates"] == len(seen):
            steps[-1] = step
        else:
            steps.append(step)
    return steps


def strategies_of(
    events: Sequence[Event],
    evaluations: Sequence[Evaluation],
    *,
    rows: Sequence[Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    resource: str = "macs",
) -> list[dict[str, Any]]:
    """Returns what each strategy or heuristic contributed, the best first.

    Args:
        events: of the ledger.
        evaluations: of the candidates.
        rows: of the candidates, `rows_of`.
        steps: of `progress_of`.
        resource: that the front trades for accuracy.
    """
    proposed = {event["id"]: str(event["proposed_by"]) for event in events if event["event"] == "asked"}
    failed = {event["id"] for event in events if event["event"] == "told" and "failed" in event}
    top = max((row["level"] for row in rows), default=0)
    front = sum(bool(row["front"]) for row in rows)
    taken = [step["incumbent"] for step in steps]
    led = [number for number, before in zip(taken, [None, *taken], strict=False) if number != before]
    found = []
    for name in dict.fromkeys(proposed.values()):
        mine = [row for row in rows if row["proposed_by"] == name]
        finished = [row for row in mine if row["level"] == top]
        best = _best([one for one in evaluations if one.candidate.proposed_by == name], top, resource)
        on_front = sum(bool(row["front"]) for row in mine)
        found.append(
            {
                "name": name,
                "proposed": sum(by == name for by in proposed.values()),
                "evaluated": len(mine),
                "failed": sum(proposed.get(number) == name for number in failed),
                "finished": len(finished),
                "best_id": best and best.candidate.id,
                "best_score": best and best.score,
                "best_accuracy": best and best.accuracy,
                "front": on_front,
                "front_share": on_front / front if front else 0.0,
                "improvements": sum(proposed.get(number) == name for number in led),
                "seconds": sum(row["seconds"] for row in mine),
            }
        )
    return sorted(found, key=lambda one: (-one["front"], -(one["best_score"] or 0.0), one["name"]))


def _best(evaluations: Sequence[Evaluation], level: int, resource: str) -> Evaluation | None:
    """Returns the best of some candidates within budget on the highest rung that any candidate reached."""
    standings = Standings(resource)
    for evaluation in evaluations:
        if evaluation.candidate.fidelity.level == level:
            standings.tell(evaluation)
    return standings.best


def agreement_of(evaluations: Sequence[Evaluation]) -> dict[str, Any] | None:
    """Returns how the first rung's scores compare with the last rung's, None where no candidate has both.

    Returns:
        `{"first", "last"}` names of the rungs, `candidates` (id, first score, last score), the number of `pairs` of
        candidates, and Kendall's `tau`, None where it is not defined.
    """
    levels = sorted({item.candidate.fidelity.level for item in evaluations})
    if len(levels) < 2:
        return None
    first, last = (
        {item.candidate.id: item for item in evaluations if item.candidate.fidelity.level == level}
        for level in (levels[0], levels[-1])
    )
    both = sorted(first.keys() & last.keys())
    if not both:
        return None
    scores = [(first[number].score, last[number].score) for number in both]
    return {
        "first": first[both[0]].candidate.fidelity.name,
        "last": last[both[0]].candidate.fidelity.name,
        "candidates": [[number, *pair] for number, pair in zip(both, scores, strict=True)],
        "pairs": len(both) * (len(both) - 1) // 2,
        "tau": kendall_tau(scores),
    }


def kendall_tau(scores: Sequence[tuple[float, float]]) -> float | None:
    """Returns Kendall's rank correlation tau-b of n pairs of scores, in [-1, 1]; None where it is not defined.

    Kendall 1945 (The treatment of ties in ranking problems): (C - D) / sqrt((C + D + T) (C + D + U)).
    """
    values = np.asarray(scores, dtype=np.float64).reshape(-1, 2)
    rows, columns = np.triu_indices(len(values), k=1)
    signs = np.sign(values[rows] - values[columns])
    agreement = float((signs[:, 0] * signs[:, 1]).sum())
    scale = math.sqrt(float((signs[:, 0] != 0).sum()) * float((signs[:, 1] != 0).sum()))
    return agreement / scale if scale else None
