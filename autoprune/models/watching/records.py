"""What a trace records: operations as they ran, parameter axes, layer calls, channel maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from autoprune.models.network import LayerKind, Role


@dataclass(frozen=True)
class Call:
    """One operation that has just run.

    Attributes:
        func: the operation.
        args: its positional arguments.
        kwargs: its keyword arguments.
        out: what it returned.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any

    @cached_property
    def name(self) -> str:
        """For example `aten::add_`."""
        return str(self.func._schema.name)

    @property
    def base(self) -> str:
        """The name without the underscore of an operation in place."""
        return self.name.removesuffix("_")

    @property
    def plain(self) -> str:
        """The name as people know it, for example `add`."""
        return self.base.removeprefix("aten::").strip("_")

    @cached_property
    def operands(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @cached_property
    def results(self) -> list[Tensor]:
        """Every tensor that came back."""
        return [leaf for leaf in tree_leaves(self.out) if isinstance(leaf, Tensor)]


@dataclass
class AxisRecord:
    """Labels of one parameter axis."""

    tensor: Tensor
    axis: int
    role: Role
    labels: Tensor


@dataclass
class CallRecord:
    """One recorded operation of a layer: see `LayerCall`."""

    weight: Tensor
    kind: LayerKind
    groups: int
    call: int
    input: Tensor | None
    output: Tensor
    uses: int
    bias: Tensor | None = None
    norm: Tensor | None = None
    norm_call: int | None = None
    target: int = -1
    joins: bool = False
    first_operand: bool = False
    settled: bool = False
    readers: int = 0
    rectified: bool = False
    forked: bool = False
    links: int = 0


@dataclass
class MapRecord:
    """One call of a `ChannelMap`."""

    name: str
    input: Tensor
    output: Tensor
