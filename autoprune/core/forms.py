"""Costs as functions of the widths: what projections bisect on, and strategies price channels by.

A form never falls when a width grows; the forms here refuse coefficients that would break that.

Notation:
    w   (P, G)  widths of P structures over G groups
    Q   (G, G)  symmetric; b (G,); c scalar: `w Q w + b w + c`, a sum of products of widths
    A   (T, G)  a (T,): `max over t of A_t w + a_t`, the largest of T moments

All coefficients are integers, and float64 adds integers below 2**53 exactly, so costs are exact to the last MAC or byte
as long as a network has fewer than 9e15 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class CostForm(Protocol):
    """What structures take of one resource, in its smallest unit: never less when a width grows."""

    @property
    def everywhere(self) -> bool:
        """Whether each channel of every group adds to it, so that a budget that is used up leaves no group room."""

    def relaxed(self, widths: npt.ArrayLike) -> FloatArray:
        """Returns (P,) values for (P, G) real widths."""

    def gradient(self, widths: npt.ArrayLike) -> FloatArray:
        """Returns (P, G): how much the cost of each of P structures grows per channel of each group."""


class OwnForm(CostForm, Protocol):
    """A form that does not follow from the weights of the network, and so has to restrict itself."""

    def restricted(self, order: Sequence[int], dense_widths: Sequence[int]) -> OwnForm:
        """Returns the form over the groups `order` alone, in that order; all others keep their dense width."""


@dataclass(frozen=True, eq=False)
class QuadraticForm:
    """`w Q w + b w + c` with integer coefficients of at least 0, held in float64.

    Attributes:
        quadratic: (G, G) upper triangular.
        linear: (G,).
        constant: scalar.
    """

    quadratic: FloatArray
    linear: FloatArray
    constant: float

    def __post_init__(self) -> None:
        _require_growth(self.quadratic, self.linear)

    @property
    def everywhere(self) -> bool:
        """True: every channel has weights."""
        return True

    def relaxed(self, widths: npt.ArrayLike) -> FloatArray:
        """Returns (P,) values for (P, G) real widths, exact for integer ones."""
        w = np.asarray(widths, dtype=np.float64)
        values: FloatArray = np.einsum("pg,pg->p", w @ self.quadratic + self.linear, w) + self.constant
        return values

    def gradient(self, widths: npt.ArrayLike) -> FloatArray:
        """Returns (P, G): how much the cost of each of P structures grows per channel of each group."""
        w = np.asarray(widths, dtype=np.float64)
        gradient: FloatArray = w @ self.quadratic + w @ self.quadratic.T + self.linear
        return gradient


@dataclass(frozen=True, eq=False)
class LargestForm:
    """`max over t of A_t w + a_t` with integer coefficients of at least 0: a peak over the moments of a forward pass.

    Attributes:
        linear: (T, G).
        constant: (T,).
    """

    linear: FloatArray
    constant: FloatArray

    def __post_init__(self) -> None:
        _require_growth(self.linear)

    @property
    def everywhere(self) -> bool:
        """False: a group that is not alive at the peak costs nothing."""
        return False

    @classmethod
    def of(cls, linear: FloatArray, constant: FloatArray) -> LargestForm:
        """Returns the form without the moments that another one exceeds whatever the widths are."""
        rows = np.unique(np.column_stack([linear, constant]), axis=0)
        # Each row is as large as itself.
        moments = rows[[int((rows >= row).all(axis=1).sum()) == 1 for row in rows]]
        return cls(moments[:, :-1], moments[:, -1])

    def relaxed(self, widths: npt.ArrayLike) -> FloatArray:
        """Returns (P,) values for (P, G) real widths, exact for integer ones."""
        largest: FloatArray = self._moments(widths).max(axis=1)
        return largest

    def gradient(self, widths: npt.ArrayLike) -> FloatArray:
        """Returns (P, G): how much the largest moment of each of P structures grows per channel of each group."""
        gradient: FloatArray = self.linear[self._moments(widths).argmax(axis=1)]
        return gradient

    def restricted(self, order: Sequence[int], dense_widths: Sequence[int]) -> LargestForm:
        """Returns the form over the groups `order` alone, in that order; all others keep their dense width."""
        fixed = np.asarray(dense_widths, dtype=np.float64).copy()
        fixed[list(order)] = 0.0
        return LargestForm.of(self.linear[:, list(order)], self.constant + self.linear @ fixed)

    def times(self, factor: int) -> LargestForm:
        """Returns the form whose costs are so many times as large."""
        return LargestForm(self.linear * factor, self.constant * factor)

    def _moments(self, widths: npt.ArrayLike) -> FloatArray:
        moments: FloatArray = np.asarray(widths, dtype=np.float64) @ self.linear.T + self.constant
        return moments


def _require_growth(*coefficients: FloatArray) -> None:
    if any((item < 0).any() for item in coefficients):
        raise ValueError("A cost that falls when a width grows cannot be held to a budget by scaling widths.")
