"""Exact cost of a structure, without building it.

Every weight tensor is a product of axis widths, and every axis width is an integer combination of group widths.
Hence MACs and parameters of a whole network are quadratic forms in the group widths: `w Q w + b w + c`.

Notation:
    w   (P, G)  widths of P structures over G groups, integers
    Q   (G, G)  symmetric; b (G,); c scalar: the quadratic form of one resource

All entries are integers, and float64 adds integers below 2**53 exactly, so costs are exact to the last MAC as
long as a network has fewer than 9e15 MACs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoprune.core.structure import Structure

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Resources with an exact quadratic form, in the order in which costs are reported.
RESOURCES = ("macs", "params")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one forward pass of one image takes: multiply-accumulates of conv and linear layers, and parameters."""

    macs: int
    params: int

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * self.macs


@dataclass(frozen=True, slots=True)
class AxisWidth:
    """The width of one tensor axis: `constant + sum(multiplicity * width of group)`.

    Attributes:
        constant: positions that are never cut.
        groups: (group index, multiplicity) pairs, ascending by index, each index once.
    """

    constant: int
    groups: tuple[tuple[int, int], ...] = ()

    def of(self, widths: Sequence[int]) -> int:
        """Returns the width of the axis in a network with these group widths."""
        return self.constant + sum(multiplicity * widths[index] for index, multiplicity in self.groups)


@dataclass(frozen=True, slots=True)
class LayerTerm:
    """The cost of one parameter tensor: `size * out * in` parameters, each used `uses` times an image.

    Attributes:
        name: qualified parameter name, for example `layer1.0.conv1.weight`.
        size: elements per (output, input) pair: the kernel area of a convolution, else 1.
        uses: multiply-accumulates per weight and image: output positions of a convolution summed over all
            calls of the layer, 1 a token for a linear layer, 0 for biases and normalisation.
        out: width of the output axis.
        inner: width of the input axis; `AxisWidth(1)` where there is none.
    """

    name: str
    size: int
    uses: int
    out: AxisWidth
    inner: AxisWidth = AxisWidth(1)

    def cost(self, widths: Sequence[int]) -> Cost:
        """Returns the cost of this tensor in a network with these group widths."""
        params = self.size * self.out.of(widths) * self.inner.of(widths)
        return Cost(macs=self.uses * params, params=params)


@dataclass(frozen=True)
class CostModel:
    """Costs of every structure of one network.

    Attributes:
        dense_widths: (G,) the dense network's group widths.
        terms: one per parameter tensor.
    """

    dense_widths: tuple[int, ...]
    terms: tuple[LayerTerm, ...]

    @cached_property
    def forms(self) -> dict[str, QuadraticForm]:
        """The quadratic form of each resource of `RESOURCES`."""
        return {resource: self._form(resource) for resource in RESOURCES}

    @cached_property
    def dense(self) -> Cost:
        """The cost of the dense network."""
        return self.cost(Structure(self.dense_widths))

    def cost(self, structure: Structure) -> Cost:
        """Returns the exact cost of one structure."""
        row = np.asarray([structure.widths], dtype=np.int64)
        return Cost(**{resource: int(self.costs(resource, row)[0]) for resource in RESOURCES})

    def costs(self, resource: str, widths: npt.ArrayLike) -> IntArray:
        """Returns (P,) exact costs of (P, G) widths in one resource of `RESOURCES`."""
        return self.forms[resource](widths)

    def by_layer(self, structure: Structure) -> dict[str, Cost]:
        """Returns {layer name: cost}, a layer's tensors added up, in forward order."""
        layers: dict[str, Cost] = {}
        for term in self.terms:
            layer = term.name.rpartition(".")[0]
            one, before = term.cost(structure.widths), layers.get(layer, Cost(0, 0))
            layers[layer] = Cost(before.macs + one.macs, before.params + one.params)
        return layers

    def restricted(self, order: Sequence[int]) -> CostModel:
        """Returns the costs over the groups `order` alone, in that order; all others keep their dense width."""
        place = {index: position for position, index in enumerate(order)}

        def axis(width: AxisWidth) -> AxisWidth:
            fixed = sum(times * self.dense_widths[index] for index, times in width.groups if index not in place)
            moved = sorted((place[index], times) for index, times in width.groups if index in place)
            return AxisWidth(width.constant + fixed, tuple(moved))

        terms = [replace(term, out=axis(term.out), inner=axis(term.inner)) for term in self.terms]
        return CostModel(tuple(self.dense_widths[index] for index in order), tuple(terms))

    def _form(self, resource: str) -> QuadraticForm:
        count = len(self.dense_widths)
        quadratic, linear, constant = np.zeros((count, count)), np.zeros(count), 0.0
        for term in self.terms:
            factor = term.size * (term.uses if resource == "macs" else 1)
            constant += factor * term.out.constant * term.inner.constant
            for index, multiplicity in term.out.groups:
                linear[index] += factor * multiplicity * term.inner.constant
            for index, multiplicity in term.inner.groups:
                linear[index] += factor * multiplicity * term.out.constant
            for row, left in term.out.groups:
                for column, right in term.inner.groups:
                    # Kept triangular rather than halved on both sides: halves of odd integers are no integers.
                    quadratic[min(row, column), max(row, column)] += factor * left * right
        return QuadraticForm(quadratic, linear, constant)


@dataclass(frozen=True, eq=False)
class QuadraticForm:
    """`w Q w + b w + c` with integer coefficients held in float64.

    Attributes:
        quadratic: (G, G) upper triangular.
        linear: (G,).
        constant: scalar.
    """

    quadratic: FloatArray
    linear: FloatArray
    constant: float

    def __call__(self, widths: npt.ArrayLike) -> IntArray:
        """Returns (P,) exact integer values for (P, G) integer widths."""
        return np.asarray(self.relaxed(widths), dtype=np.int64)

    def relaxed(self, widths: npt.ArrayLike) -> FloatArray:
        """Returns (P,) values for (P, G) real widths: what projections bisect on."""
        w = np.asarray(widths, dtype=np.float64)
        values: FloatArray = np.einsum("pg,pg->p", w @ self.quadratic + self.linear, w) + self.constant
        return values

    def gradient(self, widths: npt.ArrayLike) -> FloatArray:
        """Returns (P, G): how much the cost of each of P structures grows per channel of each group."""
        w = np.asarray(widths, dtype=np.float64)
        gradient: FloatArray = w @ self.quadratic + w @ self.quadratic.T + self.linear
        return gradient
