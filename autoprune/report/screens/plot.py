"""A front in characters: accuracy over cost, small enough to stand below a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from autoprune.report import formats

#: Characters and styles of a candidate, of one on the front, and of the best.
_MARKS = (("·", "dim"), ("●", "cyan"), ("◆", "bold green"))
_LABEL = 9


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate in the plot.

    Attributes:
        cost: amount of the resource that the front trades for accuracy.
        accuracy: hold-out top-1, in [0, 1].
        rank: 0 for a candidate, 1 on the front, 2 for the best; the higher one is drawn where two meet.
    """

    cost: float
    accuracy: float
    rank: int


def front_plot(points: Sequence[Point], *, resource: str, width: int, height: int) -> list[Text]:
    """Returns the lines of a plot: `height` of points, one of the axis, one of its figures; none without two points.

    The poorer half of many candidates may lie below: it would press the good ones into a line at the top.

    Args:
        points: in any order.
        resource: whose amounts their costs are.
        width: of a line, in characters, 30 or more.
        height: lines of points, 3 or more.
    """
    if len(points) < 2:
        return []
    columns = width - _LABEL - 1
    low, high = _range(points)
    left, right = min(point.cost for point in points), max(point.cost for point in points)
    grid: list[list[int]] = [[-1] * columns for _ in range(height)]
    for point in points:
        row = round((high - point.accuracy) / (high - low) * (height - 1))
        column = round((point.cost - left) / ((right - left) or 1.0) * (columns - 1))
        if row < height:
            grid[row][column] = max(grid[row][column], point.rank)
    lines = []
    for index, cells in enumerate(grid):
        named = index in (0, height - 1)
        value = high - index / (height - 1) * (high - low)
        line = Text(f"{formats.accuracy(value) if named else '':>{_LABEL}}{'┤' if named else '│'}", style="dim")
        for rank in cells:
            mark, style = _MARKS[rank] if rank >= 0 else (" ", "")
            line.append(mark, style=style)
        lines.append(line)
    lines.append(Text(" " * _LABEL + "└" + "─" * columns, style="dim"))
    cheapest, dearest = formats.amount(resource, left), formats.amount(resource, right)
    # The unit is said once where it is the same at both ends.
    cheapest = cheapest.removesuffix(" " + dearest.rpartition(" ")[2])
    gap = max(1, columns - len(cheapest) - len(dearest))
    lines.append(Text(" " * (_LABEL + 1) + cheapest + " " * gap + dearest, style="dim"))
    return lines


def _range(points: Sequence[Point]) -> tuple[float, float]:
    """Returns the accuracies at the bottom and at the top of a plot."""
    ordered = sorted(point.accuracy for point in points)
    front = [point.accuracy for point in points if point.rank > 0]
    low = min([ordered[len(ordered) // 2] if len(ordered) > 8 else ordered[0], *front])
    high = ordered[-1]
    return (low, high) if high - low > 1e-3 else (high - 1e-3, high)
