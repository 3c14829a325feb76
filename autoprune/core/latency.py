"""Latency as a function of the widths: a table of times for every layer, and what is no layer.

The model is additive. Layer l takes the time of a table at its input and output width, linear between the measured
widths; everything else (batch norms, activations, additions, overhead) takes a constant and a time per element that the
layers write: `t(w) = sum over l of T_l(in_l(w), out_l(w)) + e * sum over l of size_l * out_l(w) + c`.

Notation:
    w   (P, G)  widths of P structures over G groups
    L, R, C     layers; widths in the rows (inputs) and columns (outputs) of their tables, the largest number of any
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import AxisWidth
from autoprune.core.forms import FloatArray

#: Slopes are read over this share of a width on either side: tables are staircases where hardware works in blocks.
_REACH = 0.125


@dataclass(frozen=True, eq=False)
class LayerTable:
    """Times of one layer's call on a grid of widths.

    Attributes:
        inner: width of its input.
        out: width of its output.
        rows: (R,) ascending input widths that were measured.
        columns: (C,) ascending output widths that were measured.
        times: (R, C) in nanoseconds.
        size: elements that it writes per output channel.
    """

    inner: AxisWidth
    out: AxisWidth
    rows: Sequence[int]
    columns: Sequence[int]
    times: FloatArray
    size: int


@dataclass(frozen=True, eq=False)
class LatencyForm:
    """Nanoseconds of a forward pass, never less when a width grows: tables are monotone, constants not below 0.

    Attributes:
        inner: (L, G + 1) multiplicities of the groups in the layers' input widths, and constants.
        out: (L, G + 1) likewise of the outputs.
        rows: (L, R) measured input widths, infinite beyond the last.
        columns: (L, C) measured output widths, likewise.
        times: (L, R, C) in nanoseconds, monotone along both.
        sizes: (L,) elements that each layer writes per output channel.
        per_element: nanoseconds.
        constant: nanoseconds.
    """

    inner: FloatArray
    out: FloatArray
    rows: FloatArray
    columns: FloatArray
    times: FloatArray
    sizes: FloatArray
    per_element: float = 0.0
    constant: float = 0.0

    def __post_init__(self) -> None:
        falls = any((np.diff(self.times, axis=axis) < 0).any() for axis in (1, 2))
        if falls or min(self.per_element, self.constant) < 0:
            raise ValueError("A latency that falls when a width grows cannot be held to a budget by scaling widths.")

    @classmethod
    def of(cls, layers: Sequence[LayerTable], groups: int) -> LatencyForm:
        """Returns the form of the layers alone.

        Args:
            layers: with at least one row and column each.
            groups: number of groups.
        """
        height, width = (max(len(getattr(layer, name)) for layer in layers) for name in ("rows", "columns"))

        def grid(name: str, longest: int) -> FloatArray:
            values = [np.asarray(getattr(layer, name), dtype=np.float64) for layer in layers]
            return np.stack([np.pad(row, (0, longest - len(row)), constant_values=np.inf) for row in values])

        def times(table: FloatArray) -> FloatArray:
            missing = [(0, size - have) for size, have in zip((height, width), table.shape, strict=True)]
            return np.pad(monotone(table), missing, mode="edge")

        return cls(
            inner=np.stack([_affine(layer.inner, groups) for layer in layers]),
            out=np.stack([_affine(layer.out, groups) for layer in layers]),
            rows=grid("rows", height),
            columns=grid("columns", width),
            times=np.stack([times(np.asarray(layer.times, dtype=np.float64)) for layer in layers]),
            sizes=np.asarray([layer.size for layer in layers], dtype=np.float64),
        )

    def calibrated(self, *, scale: float, per_element: float, constant: float) -> LatencyForm:
        """Returns the form with the layers' times scaled, and the rest of the network added."""
        return replace(self, times=scale * self.times, per_element=per_element, constant=constant)

    @property
    def everywhere(self) -> bool:
        """True: every channel is computed by a layer."""
        return True

    def relaxed(self, widths: npt.ArrayLike) -> FloatArray:
        """Returns (P,) nanoseconds for (P, G) real widths."""
        layers, elements = self.parts(widths)
        total: FloatArray = layers + self.per_element * elements + self.constant
        return total

    def parts(self, widths: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Returns (P,) the nanoseconds of all layers, and (P,) the elements that they write."""
        w = np.asarray(widths, dtype=np.float64)
        inner = w @ self.inner[:, :-1].T + self.inner[:, -1]
        out = w @ self.out[:, :-1].T + self.out[:, -1]
        (i, below, right), (j, left, up) = _cell(inner, self.rows), _cell(out, self.columns)
        layer = np.arange(len(self.times))
        corners = [
            self.times[layer, row, column] * share
            for row, of_row in ((i, 1 - below), (np.minimum(i + 1, right), below))
            for column, of_column in ((j, 1 - left), (np.minimum(j + 1, up), left))
            for share in (of_row * of_column,)
        ]
        # A layer without inputs or outputs is not there at all.
        there = (inner > 0) & (out > 0)
        return np.where(there, sum(corners), 0.0).sum(axis=1), out @ self.sizes

    def gradient(self, widths: npt.ArrayLike) -> FloatArray:
        """Returns (P, G): what a channel of each group adds to each of P structures, as a secant around its width."""
        w = np.asarray(widths, dtype=np.float64)
        reach = np.maximum(_REACH * w, 1.0)
        steps = np.eye(w.shape[1]) * reach[:, :, None]
        low = np.maximum(w[:, None] - steps, 1e-9)
        high = w[:, None] + steps
        flat = (-1, w.shape[1])
        rise = self.relaxed(high.reshape(flat)) - self.relaxed(low.reshape(flat))
        run = np.diagonal(high - low, axis1=1, axis2=2)
        gradient: FloatArray = rise.reshape(w.shape) / run
        return gradient

    def restricted(self, order: Sequence[int], dense_widths: Sequence[int]) -> LatencyForm:
        """Returns the form over the groups `order` alone, in that order; all others keep their dense width."""
        fixed = np.asarray(dense_widths, dtype=np.float64).copy()
        fixed[list(order)] = 0.0

        def moved(axis: FloatArray) -> FloatArray:
            return np.column_stack([axis[:, list(order)], axis[:, -1] + axis[:, :-1] @ fixed])

        return replace(self, inner=moved(self.inner), out=moved(self.out))


def monotone(table: FloatArray) -> FloatArray:
    """Returns an (R, C) table that falls along neither axis: halfway between the largest before and the least after.

    Both bounds are monotone, and noise pushes one up as often as the other down: the mean is about unbiased.
    """
    lower, upper = table, table[::-1, ::-1]
    for axis in (0, 1):
        lower = np.maximum.accumulate(lower, axis=axis)
        upper = np.minimum.accumulate(upper, axis=axis)
    middle: FloatArray = (lower + upper[::-1, ::-1]) / 2
    return middle


def _affine(axis: AxisWidth, groups: int) -> FloatArray:
    row = np.zeros(groups + 1)
    row[-1] = axis.constant
    for index, times in axis.groups:
        row[index] = times
    return row


def _cell(values: FloatArray, grid: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray, npt.NDArray[np.int64]]:
    """Returns (P, L) the grid position below each value, its share of the way to the next, and (L,) the last position.

    Below the first and beyond the last measured width, the time is that of the nearest.
    """
    last = np.isfinite(grid).sum(axis=1) - 1
    layer = np.arange(len(grid))
    below = np.clip((values[:, :, None] >= grid).sum(axis=2) - 1, 0, last)
    start, end = grid[layer, below], grid[layer, np.minimum(below + 1, last)]
    span = np.where(end > start, end - start, 1.0)
    share: FloatArray = np.clip((values - start) / span, 0.0, 1.0)
    return below, share, last
