"""What is searched for: one integer width per prunable group.

A *prunable group* is a set of channels that can only be cut together: the outputs of one layer, or of all layers
whose outputs meet in a residual stream. A *structure* names how many channels each group keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoprune.errors import StructureError, nearest


@dataclass(frozen=True, slots=True)
class PrunableGroup:
    """Channels that are cut together.

    Attributes:
        name: the first layer (in forward order) that produces them, for example `layer1.0.conv1`.
        width: channels in the dense network, at least 1.
        min_width: the fewest channels that may remain, in [1, width].
        multiple_of: kept widths are multiples of this, or the dense width itself.
        coupled: whether the channels pass through an addition of two streams (a residual connection).
    """

    name: str
    width: int
    min_width: int = 1
    multiple_of: int = 1
    coupled: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise StructureError(f"Group {self.name!r} has width {self.width}. A width is at least 1.")
        if not 1 <= self.min_width <= self.width:
            raise StructureError(
                f"Group {self.name!r}: min_width {self.min_width} does not lie in [1, {self.width}], its dense width."
            )
        if self.multiple_of < 1:
            raise StructureError(f"Group {self.name!r}: multiple_of {self.multiple_of} must be at least 1.")

    @property
    def legal_widths(self) -> tuple[int, ...]:
        """Every width the group may keep, ascending; the dense width is always the last."""
        step = self.multiple_of
        first = -(-self.min_width // step) * step
        return (*range(first, self.width, step), self.width)


@dataclass(frozen=True, slots=True)
class Structure:
    """Kept widths in the order of the groups. Hashable: a structure is its own cache key."""

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(width < 0 for width in self.widths):
            raise StructureError(f"Structure {self.widths} has a negative width.")

    def __iter__(self) -> Iterator[int]:
        return iter(self.widths)

    def __len__(self) -> int:
        return len(self.widths)

    def by_group(self, groups: Sequence[PrunableGroup]) -> dict[str, int]:
        """Returns {group name: width}."""
        return {group.name: width for group, width in zip(groups, self.widths, strict=True)}


def structure_from(widths: Sequence[int] | Mapping[str, int], groups: Sequence[PrunableGroup]) -> Structure:
    """Returns the structure that a list (in group order) or a mapping by group name describes.

    Groups that a mapping leaves out keep their dense width.

    Raises:
        StructureError: a name is unknown, the length differs, or a width lies outside [1, dense].
    """
    if isinstance(widths, Mapping):
        names = [group.name for group in groups]
        for name in widths:
            if name not in names:
                raise StructureError(f"Unknown group {name!r} in the widths.{nearest(name, names)}")
        values = [widths.get(group.name, group.width) for group in groups]
    else:
        if len(widths) != len(groups):
            raise StructureError(
                f"The widths list has {len(widths)} entries, the network has {len(groups)} prunable groups. "
                "Give one width per group (`autoprune trace MODEL` lists them)."
            )
        values = list(widths)
    for group, value in zip(groups, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= group.width:
            raise StructureError(f"Width {value!r} of group {group.name!r} is not an integer in [1, {group.width}].")
    return Structure(tuple(values))
