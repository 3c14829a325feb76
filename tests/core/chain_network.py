"""A small network of four groups that has every kind of cost term."""

from autoprune.core.cost import AxisWidth, CostModel, LayerTerm
from autoprune.core.structure import PrunableGroup


def network(multiple_of: int = 1, min_width: int = 1) -> tuple[list[PrunableGroup], CostModel]:
    """A chain of four layers with a residual group, a concatenation, a depthwise and a flattened layer."""
    widths = (16, 24, 40, 64)
    groups = [PrunableGroup(f"g{i}", w, min_width, multiple_of) for i, w in enumerate(widths)]
    axes = [AxisWidth(0, ((index, 1),)) for index in range(4)]
    terms = (
        LayerTerm("a.weight", 9, 1024, axes[0], AxisWidth(3)),
        LayerTerm("b.weight", 9, 1024, axes[1], axes[0]),
        LayerTerm("b.bias", 1, 0, axes[1]),
        LayerTerm("same.weight", 9, 256, axes[0], axes[0]),
        LayerTerm("depthwise.weight", 9, 256, axes[1]),
        LayerTerm("c.weight", 9, 256, axes[2], AxisWidth(5, ((0, 1), (1, 1)))),
        LayerTerm("d.weight", 9, 64, axes[3], axes[2]),
        LayerTerm("fc.weight", 1, 1, AxisWidth(10), AxisWidth(0, ((3, 4),))),
    )
    return groups, CostModel(widths, terms)
