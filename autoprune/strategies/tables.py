"""Widths from tables: per group, how much it hurts to keep so many channels; then the cheapest pain within budget.

Notation:
    D   per group (L_g,) damage at each of its listed widths, non-increasing in the width
    k   per group (L_g,) the listed legal widths, ascending; the last is the dense width
    c   (G,) marginal cost of one channel, as a share of the limit
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.cost import FloatArray
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure

_BISECTIONS = 40
#: Passes over a grid of price levels, each within one cell of the last: 60 / 23^4 apart in the end.
_REFINEMENTS, _GRID = 4, 24


@dataclass(frozen=True, eq=False)
class DamageTables:
    """Damage per group and width, padded to one rectangle.

    Attributes:
        widths: (G, L) ascending; short rows repeat the dense width.
        damage: (G, L) non-increasing along each row.
    """

    widths: FloatArray
    damage: FloatArray

    @classmethod
    def of(cls, widths: Sequence[FloatArray], damage: Sequence[FloatArray]) -> DamageTables:
        """Returns the tables of ragged rows, made monotone: no channel may help by its absence."""
        return cls.monotone(padded(widths), padded(damage))

    @classmethod
    def monotone(cls, widths: FloatArray, damage: FloatArray) -> DamageTables:
        """Returns the tables of (G, L) widths and damages, made monotone."""
        return cls(widths, np.maximum.accumulate(damage[:, ::-1], axis=1)[:, ::-1])

    def at(self, columns: FloatArray) -> FloatArray:
        """Returns (G,) widths at the (G,) chosen columns."""
        picked: FloatArray = np.take_along_axis(self.widths, columns[:, None].astype(np.int64), axis=1)[:, 0]
        return picked


def padded(rows: Sequence[FloatArray]) -> FloatArray:
    """Returns (G, L) ragged rows as one rectangle; short ones repeat their last entry."""
    table = np.empty((len(rows), max(len(row) for row in rows)))
    for line, row in zip(table, rows, strict=True):
        line[: len(row)], line[len(row) :] = row, row[-1]
    return table


def near_widths(levels: FloatArray, centre: FloatArray, *, reach: float) -> FloatArray:
    """Returns (G, L) the levels within reach of a centre, and the centre itself, ascending.

    Args:
        levels: (G, K) of `padded(level_widths(...))`.
        centre: (G,) widths.
        reach: largest change of a width's logarithm.
    """
    middle, factor = centre[:, None], np.exp(reach)
    # One channel further: in narrow groups the region would else hold nothing but its centre.
    near = (levels >= middle / factor - 1) & (levels <= middle * factor + 1) & (levels != middle)
    near[:, 1:] &= levels[:, 1:] > levels[:, :-1]  # the dense width is repeated
    # Whatever is not near goes to the end of its row, and there repeats the largest that is.
    found = np.sort(np.concatenate([np.where(near, levels, np.inf), middle], axis=1), axis=1)
    found = found[:, : int(near.sum(axis=1).max()) + 1]
    largest = np.where(np.isfinite(found), found, -np.inf).max(axis=1, keepdims=True)
    nearest: FloatArray = np.minimum(found, largest)
    return nearest


def level_widths(space: SearchSpace, levels: int) -> list[FloatArray]:
    """Returns, per group, at most `levels` legal widths, evenly spread over the logarithm, ends included."""
    chosen = []
    for group in space.groups:
        legal = np.asarray(group.legal_widths, dtype=np.float64)
        if len(legal) > levels:
            wished = np.geomspace(max(1.0, legal[0]), legal[-1], levels)
            wished[0] = legal[0]
            legal = legal[np.unique(np.abs(legal[None] - wished[:, None]).argmin(axis=1))]
        chosen.append(legal)
    return chosen


def largest_within(space: SearchSpace, widths_of: Callable[[float], FloatArray], *, low: float, high: float) -> float:
    """Returns the largest knob in [low, high] whose widths hold every limit; `low` when none does.

    Args:
        space: with the limits; widths are rounded to legal ones before they are priced.
        widths_of: (G,) wished widths for a knob, growing with it.
        low: smallest knob.
        high: largest knob.
    """
    if within(space, widths_of(high)):
        return high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if within(space, widths_of(middle)) else (low, middle)
    return low


def within(space: SearchSpace, widths: FloatArray) -> bool:
    """Returns whether (G,) real widths, clipped to the legal range, hold every limit."""
    smallest, dense = np.asarray(space.smallest.widths, float), np.asarray(space.dense.widths, float)
    return bool(space.within(np.clip(widths, smallest, dense)[None])[0])


def thresholded(space: SearchSpace, tables: DamageTables) -> Structure:
    """Returns the structure whose largest damage is smallest (what FastNAS does): one threshold, bisected.

    Each group keeps the fewest channels whose damage stays within the threshold.
    """
    worst = float(tables.damage.max())

    def widths_of(knob: float) -> FloatArray:
        # The knob runs from 0 (all damage allowed) to 1 (none).
        bearable = tables.damage <= worst * (1 - knob)
        return tables.at(np.where(bearable.any(axis=1), bearable.argmax(axis=1), tables.damage.shape[1] - 1))

    knob = largest_within(space, widths_of, low=0.0, high=1.0)
    return space.project(widths_of(knob)[None])[0]


def allocated(space: SearchSpace, tables: DamageTables) -> Structure:
    """Returns the structure whose summed damage is about smallest within the budget."""
    return space.project(lagrangian_widths(space, tables, start=space.uniform(), rounds=4)[None])[0]


def lagrangian_widths(space: SearchSpace, tables: DamageTables, *, start: Structure, rounds: int) -> FloatArray:
    """Returns (G,) widths that minimise the summed damage plus a price on the cost, the price searched to the budget.

    The price of a channel is the exact gradient of the cost at the widths of the round before: costs are
    quadratic, so the price of a channel depends on its neighbours' widths. Widths off the lower convex hull of a
    table are unreachable by any price; projection fills what that leaves of the budget.

    Args:
        space: with costs and limits.
        tables: damage by width.
        start: where the first prices are read.
        rounds: how often prices are read anew.
    """
    widths = np.asarray(start.widths, dtype=np.float64)
    chosen = widths
    for _ in range(rounds):
        chosen = _priced(space, tables, _prices(space, widths))
        if np.array_equal(chosen, widths):
            break
        # Half a step: a full one can swing between two solutions when costs are coupled.
        widths = np.sqrt(widths * np.maximum(chosen, 1.0))
    return chosen


def _priced(space: SearchSpace, tables: DamageTables, prices: FloatArray) -> FloatArray:
    """Returns (G,) the widths at the lowest level of prices that keeps them within budget."""
    # Damages lie around 1 and so do costs as shares: prices beyond e+-30 change nothing.
    low, high = -30.0, 30.0
    best = tables.widths[:, 0]
    for _ in range(_REFINEMENTS):
        # A grid a pass instead of bisection: two dozen structures cost numpy no more than one.
        knobs = np.linspace(low, high, _GRID)
        charged = np.exp(-knobs)[:, None, None] * (prices[:, None] * tables.widths)
        total = tables.damage + charged
        # Of equal totals the last, hence the widest, is taken.
        last = total.shape[2] - 1 - total[:, :, ::-1].argmin(axis=2)
        chosen = np.take_along_axis(tables.widths[None], last[:, :, None], axis=2)[:, :, 0]
        fine = np.flatnonzero(space.within(chosen))
        if not len(fine):
            break
        best = chosen[fine[-1]]
        low, high = knobs[fine[-1]], knobs[min(fine[-1] + 1, _GRID - 1)]
        if high <= low:
            break
    return best


def _prices(space: SearchSpace, widths: FloatArray) -> FloatArray:
    """Returns (G,) cost of a channel as a share of the tightest limits, at these widths."""
    prices = np.zeros(len(widths))
    for limit in space.limits:
        gradient = space.cost_model.forms[limit.resource].gradient(widths[None])[0]
        prices = np.maximum(prices, gradient / max(1, limit.ceiling))
    return np.maximum(prices, 1e-12)
