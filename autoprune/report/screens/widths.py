"""Dense and kept widths as a picture made of characters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import sqrt
from typing import Any

from rich.text import Text

from autoprune.report.formats import one_line

#: More groups than this are drawn as one character each.
MOST_LINES = 36
_LONGEST_BAR = 32
_SHORTEST_BAR = 4
_PER_LINE = 48
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEIGHTS = "▁▂▃▄▅▆▇█"


def width_lines(groups: Sequence[Mapping[str, Any]], widths: Mapping[str, int], *, plain: bool) -> list[Text]:
    """Returns the picture, a line a group; of long networks a line a stage.

    Args:
        groups: `{"name", "width", "coupled"}` of every prunable group.
        widths: kept widths by group name; a group that is missing keeps its dense width.
        plain: in ASCII and one line a group, however many.
    """
    triples = [(str(g["name"]), int(g["width"]), int(widths.get(g["name"], g["width"]))) for g in groups]
    if not triples:
        return []
    if plain or len(triples) <= MOST_LINES:
        return _bars(triples, plain=plain)
    return list(_sparklines(triples))


def _bars(triples: Sequence[tuple[str, int, int]], *, plain: bool) -> list[Text]:
    label = min(32, max(len(name) for name, _, _ in triples))
    digits = len(str(max(dense for _, dense, _ in triples)))
    widest = max(dense for _, dense, _ in triples)
    lines = []
    for name, dense, kept in triples:
        # The root keeps a stem of 16 channels visible beside a head of 512.
        length = max(_SHORTEST_BAR, round(_LONGEST_BAR * sqrt(dense / widest)))
        line = Text(f"{one_line(name, limit=label):<{label}}  ", no_wrap=True)
        line.append_text(_bar(kept / dense, length=length, plain=plain))
        line.append(" " * (_LONGEST_BAR - length) + f"  {kept:>{digits}} of {dense:>{digits}}")
        line.append(f"  {100 * kept / dense:3.0f} %" if kept else "  removed", style="dim")
        lines.append(line)
    return lines


def _bar(share: float, *, length: int, plain: bool) -> Text:
    if plain:
        full = max(1 if share else 0, round(share * length))
        return Text("#" * full + "." * (length - full))
    full, eighths = divmod(max(1 if share else 0, round(share * length * 8)), 8)
    filled = "█" * full + (_EIGHTHS[eighths] if eighths else "")
    # On a grey ground a partial block shows where the dense width ends.
    return Text(filled.ljust(length), style="cyan on grey30")


def _sparklines(triples: Sequence[tuple[str, int, int]]) -> Iterator[Text]:
    yield Text("one column a group, its height the share kept, x where it is removed", style="dim")
    stages = [(stage, list(members)) for stage, members in groupby(triples, key=lambda one: one[0].split(".")[0])]
    label = min(24, max(len(stage) for stage, _ in stages))
    for stage, members in stages:
        for start in range(0, len(members), _PER_LINE):
            part = members[start : start + _PER_LINE]
            kept = sum(k for _, _, k in part) / sum(d for _, d, _ in part)
            line = Text(f"{one_line(stage, limit=label) if start == 0 else '':<{label}}  ", no_wrap=True)
            line.append("".join(_height(k / d) for _, d, k in part), style="cyan")
            span = f"{min(k for _, _, k in part)} to {max(k for _, _, k in part)}"
            dense = sorted({d for _, d, _ in part})
            whole = str(dense[0]) if len(dense) == 1 else f"{dense[0]} to {dense[-1]}"
            line.append(f"  {span} of {whole}, {100 * kept:.0f} %", style="dim")
            yield line


def _height(share: float) -> str:
    if not share:
        return "x"
    return _HEIGHTS[min(len(_HEIGHTS) - 1, int(share * len(_HEIGHTS)))]
