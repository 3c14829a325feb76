"""Candidates as flat rows, for tables, CSV files and the page of the front."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from autoprune.core.candidate import Evaluation
from autoprune.core.cost import Cost
from autoprune.core.structure import PrunableGroup


def candidate_rows(
    evaluations: Iterable[Evaluation],
    *,
    groups: Sequence[PrunableGroup],
    dense: Cost,
    front_ids: Collection[int],
) -> list[dict[str, Any]]:
    """Returns one row per candidate, by id: what the highest rung said, and the seconds of all rungs together.

    Args:
        evaluations: of any rungs, in any order.
        groups: the prunable groups, in the order of every structure.
        dense: cost of the dense network.
        front_ids: candidates on the front.
    """
    latest: dict[int, Evaluation] = {}
    seconds: dict[int, float] = {}
    for evaluation in evaluations:
        number = evaluation.candidate.id
        seconds[number] = seconds.get(number, 0.0) + evaluation.seconds
        known = latest.get(number)
        if known is None or evaluation.candidate.fidelity.level >= known.candidate.fidelity.level:
            latest[number] = evaluation
    on_front = frozenset(front_ids)
    return [
        _row(latest[number], groups=groups, dense=dense, front=number in on_front, seconds=seconds[number])
        for number in sorted(latest)
    ]


def front_rows(rows: Iterable[Mapping[str, Any]], resource: str = "macs") -> list[dict[str, Any]]:
    """Returns the rows on the front, cheapest in a resource first."""
    return sorted((dict(row) for row in rows if row["front"]), key=lambda row: (row[resource], row["id"]))


def _row(
    evaluation: Evaluation, *, groups: Sequence[PrunableGroup], dense: Cost, front: bool, seconds: float
) -> dict[str, Any]:
    candidate = evaluation.candidate
    return {
        "id": candidate.id,
        "score": evaluation.score,
        "accuracy": evaluation.accuracy,
        "macs": candidate.cost.macs,
        "flops": candidate.cost.flops,
        "params": candidate.cost.params,
        **candidate.cost.others,
        **candidate.cost.retained(dense),
        "fidelity": candidate.fidelity.name,
        "level": candidate.fidelity.level,
        "proposed_by": candidate.proposed_by,
        "front": front,
        "seconds": seconds,
        "widths": candidate.structure.by_group(groups),
    }
