"""Cost of a structure, without building it.

Every weight tensor is a product of axis widths, and every axis width is an integer combination of group widths.
Hence MACs, parameters and bytes of a whole network are quadratic forms in the group widths. Other resources bring forms
of their own (see `autoprune.core.forms`): the peak of the activations, and measured latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.forms import CostForm, FloatArray, IntArray, OwnForm, QuadraticForm
from autoprune.core.resources import RESOURCES
from autoprune.core.structure import Structure
from autoprune.errors import BudgetError

__all__ = ["AxisWidth", "Cost", "CostModel", "FloatArray", "IntArray", "LayerTerm"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network takes; costs are equal when what can be counted on any network is, MACs and parameters.

    Attributes:
        macs: multiply-accumulates of conv and linear layers, for one forward pass of one image.
        params: parameters.
        others: {resource: amount in its smallest unit} of whatever else is known.
    """

    macs: int
    params: int
    others: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * self.macs

    @classmethod
    def recorded(cls, values: Mapping[str, Any]) -> Cost:
        """Returns the cost that a ledger's event or an entry of a summary holds, in every resource it names."""
        others = {name: int(values[name]) for name in RESOURCES if values.get(name) is not None}
        return cls(others.pop("macs"), others.pop("params"), others)

    @property
    def known(self) -> dict[str, int]:
        """{resource: amount} of all resources that are known."""
        return {"macs": self.macs, "params": self.params, **self.others}

    def retained(self, dense: Cost) -> dict[str, float]:
        """Returns {`retained_flops`, `retained_params`, ...}: the share of the dense cost in each known resource."""
        return {
            RESOURCES[name].retained: amount / dense.of(name)
            for name, amount in self.known.items()
            if dense.known.get(name)
        }

    def of(self, resource: str) -> int:
        """Returns the cost in one resource.

        Raises:
            BudgetError: it is not known.
        """
        known = self.known
        if resource not in known:
            raise BudgetError(_unknown(resource))
        return known[resource]


def _unknown(resource: str) -> str:
    return (
        f"The network's {RESOURCES[resource].noun} is not known here: it is found out by a search that has a budget on "
        "it. Search with one, or ask for another."
    )


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
    """The cost of one tensor of weights: `size * out * in` elements, each used `uses` times an image.

    Attributes:
        name: qualified parameter name, for example `layer1.0.conv1.weight`.
        size: elements per (output, input) pair: the kernel area of a convolution, else 1.
        uses: multiply-accumulates per weight and image: output positions of a convolution summed over all
            calls of the layer, 1 a token for a linear layer, 0 for biases and normalisation.
        out: width of the output axis.
        inner: width of the input axis; `AxisWidth(1)` where there is none.
        element_bytes: of one element.
        trained: whether it is a parameter; a buffer takes bytes only.
    """

    name: str
    size: int
    uses: int
    out: AxisWidth
    inner: AxisWidth = AxisWidth(1)
    element_bytes: int = 4
    trained: bool = True

    def each(self, resource: str) -> int:
        """Returns what one element of it takes of a resource with a quadratic form."""
        return {"macs": self.uses, "params": int(self.trained), "weights": self.element_bytes}[resource]

    def cost(self, widths: Sequence[int]) -> Cost:
        """Returns the cost of this tensor in a network with these group widths."""
        elements = self.size * self.out.of(widths) * self.inner.of(widths)
        macs, params, weights = (elements * self.each(resource) for resource in _QUADRATIC)
        return Cost(macs, params, {"weights": weights})


#: Resources that are sums of products of widths, so that their costs are exact.
_QUADRATIC = ("macs", "params", "weights")


@dataclass(frozen=True)
class CostModel:
    """Costs of every structure of one network.

    Attributes:
        dense_widths: (G,) the dense network's group widths.
        terms: one per parameter tensor and buffer.
        others: {resource: its form} of what does not follow from the weights.
    """

    dense_widths: tuple[int, ...]
    terms: tuple[LayerTerm, ...]
    others: Mapping[str, OwnForm] = field(default_factory=dict)

    @cached_property
    def forms(self) -> dict[str, CostForm]:
        """The form of each resource that is known, in the order in which costs are reported."""
        known = {**{resource: self._form(resource) for resource in _QUADRATIC}, **self.others}
        return {resource: known[resource] for resource in RESOURCES if resource in known}

    @cached_property
    def dense(self) -> Cost:
        """The cost of the dense network."""
        return self.cost(Structure(self.dense_widths))

    def cost(self, structure: Structure) -> Cost:
        """Returns the cost of one structure in every resource that is known."""
        row = np.asarray([structure.widths], dtype=np.int64)
        amounts = {resource: int(self.costs(resource, row)[0]) for resource in self.forms}
        return Cost(amounts.pop("macs"), amounts.pop("params"), amounts)

    def costs(self, resource: str, widths: npt.ArrayLike) -> IntArray:
        """Returns (P,) costs of (P, G) widths in whole units of one resource, rounded up where it is not exact.

        Raises:
            BudgetError: the resource is not known of this network.
        """
        if resource not in self.forms:
            raise BudgetError(_unknown(resource))
        # Rounded up, a cost holds a whole limit exactly when the real number does.
        return np.ceil(self.forms[resource].relaxed(widths)).astype(np.int64)

    def with_form(self, resource: str, form: OwnForm) -> CostModel:
        """Returns the model with one more resource, or another form of it."""
        return replace(self, others={**self.others, resource: form})

    def by_layer(self, structure: Structure) -> dict[str, Cost]:
        """Returns {layer name: cost in MACs, parameters and bytes}, a layer's tensors added up, in forward order."""
        layers: dict[str, Cost] = {}
        for term in self.terms:
            layer = term.name.rpartition(".")[0]
            one, before = term.cost(structure.widths), layers.get(layer, Cost(0, 0, {"weights": 0}))
            weights = before.of("weights") + one.of("weights")
            layers[layer] = Cost(before.macs + one.macs, before.params + one.params, {"weights": weights})
        return layers

    def restricted(self, order: Sequence[int]) -> CostModel:
        """Returns the costs over the groups `order` alone, in that order; all others keep their dense width."""
        place = {index: position for position, index in enumerate(order)}

        def axis(width: AxisWidth) -> AxisWidth:
            fixed = sum(times * self.dense_widths[index] for index, times in width.groups if index not in place)
            moved = sorted((place[index], times) for index, times in width.groups if index in place)
            return AxisWidth(width.constant + fixed, tuple(moved))

        terms = [replace(term, out=axis(term.out), inner=axis(term.inner)) for term in self.terms]
        others = {name: form.restricted(order, self.dense_widths) for name, form in self.others.items()}
        return CostModel(tuple(self.dense_widths[index] for index in order), tuple(terms), others)

    def _form(self, resource: str) -> QuadraticForm:
        count = len(self.dense_widths)
        quadratic, linear, constant = np.zeros((count, count)), np.zeros(count), 0.0
        for term in self.terms:
            factor = term.size * term.each(resource)
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
