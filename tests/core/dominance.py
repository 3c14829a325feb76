"""Dominance by its definition, to hold fronts against."""

from __future__ import annotations

from collections.abc import Iterable


def is_dominated(score: float, cost: float, others: Iterable[tuple[float, float]]) -> bool:
    """Returns whether some (score, cost) pair is at least as good in both and better in one."""
    return any(s >= score and c <= cost and (s > score or c < cost) for s, c in others)
