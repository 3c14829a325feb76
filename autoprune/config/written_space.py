"""The search-space file that `autoprune trace MODEL --write FILE` starts a user off with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from autoprune.config.spaces import GroupRule, SearchSpaceRules, apply_rules
from autoprune.core.structure import PrunableGroup

#: As in the shipped `default`: a group that keeps less than a twentieth rarely carries anything.
MIN_RETAIN = 0.05
_SHOWN = 3
_SPECIAL = str.maketrans({character: f"[{character}]" for character in "*?["})


def space_text(
    model: str,
    groups: Sequence[PrunableGroup],
    *,
    members: Sequence[Sequence[str]],
    frozen: Mapping[str, str],
    scope: str,
    multiple_of: int = 1,
) -> str:
    """Returns a search-space file for a network: its limits, and as comments every group and every frozen layer.

    Args:
        model: the network's name.
        groups: all prunable groups, in forward order.
        members: of each group, the layers that produce its channels.
        frozen: {layer that is never cut: why}.
        scope: `internal` or `coupled`.
        multiple_of: step of the widths.
    """
    limits = GroupRule("*", min_retain=MIN_RETAIN, multiple_of=multiple_of)
    limited = apply_rules(groups, SearchSpaceRules("", rules=(limits,)))
    rows = [("group", "dense", "least", "cut with it")]
    for group, layers in zip(limited, members, strict=True):
        beside = _some([layer for layer in layers if layer != group.name])
        marked = f"{beside} (coupled)".strip() if group.coupled else beside
        rows.append((exactly(group.name), str(group.width), str(group.legal_widths[0]), marked))
    example = rows[1][0] if len(rows) > 1 else "*"
    return "\n".join(
        [
            f"# Search space of {_line(model)}, written by `autoprune trace`. Edit it and name it with --search-space.",
            "#",
            "# What can be cut, in forward order; a pattern such as `layer1.*` names several groups:",
            "#",
            *_table(rows),
            "#",
            *_frozen(frozen),
            "format = 1",
            f"description = {_quoted(model)}",
            f"models = [{_quoted(exactly(model))}]",
            "",
            "# internal: only channels inside blocks. coupled: the groups marked so (residual streams), too.",
            f"scope = {_quoted(scope)}",
            "",
            "# No group keeps less than this share of its dense width.",
            f"min_retain = {MIN_RETAIN}",
            "",
            "# Kept widths are multiples of this, or the dense width itself. Tensor cores take 8.",
            f"multiple_of = {multiple_of}",
            "",
            f"# Groups that keep their dense width, for example frozen = [{_quoted(example)}].",
            "frozen = []",
            "",
            "# Limits of single groups. The last rule that matches a group and names a key decides that key:",
            "#",
            "# [[rule]]",
            f"# match = {_quoted(example)}",
            "# min_width = 4",
            "",
        ]
    )


def exactly(name: str) -> str:
    """Returns the pattern that only this name matches."""
    return name.translate(_SPECIAL)


def _frozen(frozen: Mapping[str, str]) -> list[str]:
    if not frozen:
        return []
    rows = [("layer", "why"), *((layer, why) for layer, why in frozen.items())]
    return ["# What is never cut, whatever this file says:", "#", *_table(rows), "#"]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns comment lines with aligned columns; numbers to the right."""
    cells = [[_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    numeric = [all(row[column].isdigit() for row in cells[1:]) for column in range(len(widths))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append(f"#     {'  '.join(padded)}".rstrip())
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _line(text: str) -> str:
    """Returns a text that a comment can hold: TOML allows no control characters there."""
    return "".join(character if character.isprintable() else " " for character in text)


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL; other characters stay themselves, for TOML knows no surrogates.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
