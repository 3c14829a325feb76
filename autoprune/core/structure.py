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
        min_width: the fewest channels that may remain, in [0, width]; 0 for a group that may vanish.
        multiple_of: kept widths are multiples of this, or the dense width itself.
        coupled: whether the channels pass through an addition of two streams (a residual connection).
        branch: shared by the groups that can only vanish together; "" for a group that keeps a channel.
    """

    name: str
    width: int
    min_width: int = 1
    multiple_of: int = 1
    coupled: bool = False
    branch: str = ""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise StructureError(f"Group {self.name!r} has width {self.width}. A width is at least 1.")
        least = 0 if self.branch else 1
        if not least <= self.min_width <= self.width:
            raise StructureError(
                f"Group {self.name!r}: min_width {self.min_width} does not lie in [{least}, {self.width}], its dense "
                "width."
            )
        if self.multiple_of < 1:
            raise StructureError(f"Group {self.name!r}: multiple_of {self.multiple_of} must be at least 1.")

    @property
    def may_vanish(self) -> bool:
        """Whether no channel at all may remain."""
        return self.min_width == 0

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


def fits(structure: Structure, groups: Sequence[PrunableGroup]) -> bool:
    """Returns whether there is a width for each group, none of a channel that may not vanish or was never there."""
    return len(structure) == len(groups) and all(
        min(1, group.min_width) <= width <= group.width for width, group in zip(structure, groups, strict=True)
    )


def structure_from(
    widths: Sequence[int] | Mapping[str, int], groups: Sequence[PrunableGroup], *, least: int | None = None
) -> Structure:
    """Returns the structure that a list (in group order) or a mapping by group name describes.

    Groups that a mapping leaves out keep their dense width.

    Args:
        widths: one a group, in [least, dense].
        groups: of the network.
        least: 0 or 1; None for 0 where the group may vanish and 1 elsewhere.

    Raises:
        StructureError: a name is unknown, the length differs, or a width lies outside.
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
        fewest = min(1, group.min_width) if least is None else least
        if isinstance(value, bool) or not isinstance(value, int) or not fewest <= value <= group.width:
            raise StructureError(
                f"Width {value!r} of group {group.name!r} is not an integer in [{fewest}, {group.width}]."
            )
    return Structure(tuple(values))
