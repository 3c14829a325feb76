"""What the lines of a ledger must hold: a checksum says that a line is as it was written, not that we wrote it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from autoprune.core.resources import RESOURCES

Check = Callable[[Any], bool]


def is_event(event: Mapping[str, Any]) -> bool:
    """Returns whether a line is one that a search writes, so that nobody who reads it need doubt its types."""
    kind = event.get("event")
    if kind == "told":
        fields = {**_TOLD, **(_FAILED if "failed" in event else _SCORED)}
    else:
        fields = _FIELDS.get(kind, {}) if isinstance(kind, str) else {}
        if not fields and kind != "waited":
            return False
    fine = all(name in event and holds(event[name]) for name, holds in fields.items())
    return fine and all(_is_whole(event[name]) for name in RESOURCES if name in event)


def _is_whole(value: Any) -> bool:
    # Far below what breaks numpy's integers, far above any count of channels, MACs or candidates; seeds have 64 bits.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def _is_number(value: Any) -> bool:
    # An integer of a thousand digits is none either: it fits no float.
    finite = isinstance(value, float) and math.isfinite(value)
    return finite or (_is_whole(value) and value < 1 << 53)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_widths(value: Any) -> bool:
    return isinstance(value, list) and all(_is_whole(width) and width < 1 << 31 for width in value)


def _is_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_finite(item) for item in value.values())


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


_HEADER: dict[str, Check] = {"run": lambda value: isinstance(value, dict)}
_ASKED: dict[str, Check] = {
    "id": _is_whole,
    "level": _is_whole,
    "widths": _is_widths,
    "proposed_by": _is_text,
    "seed": _is_whole,
    "macs": _is_whole,
    "params": _is_whole,
}
_TOLD: dict[str, Check] = {
    "id": _is_whole,
    "level": _is_whole,
    "next": lambda value: value is None or _is_whole(value),
    "worker": _is_text,
    "seconds": _is_number,
}
_SCORED: dict[str, Check] = {
    "score": _is_share,
    "accuracy": _is_share,
    "metrics": _is_metrics,
    "reused": lambda value: isinstance(value, bool),
}
_FAILED: dict[str, Check] = {"failed": _is_text}
_FIELDS: dict[str, dict[str, Check]] = {"header": _HEADER, "asked": _ASKED}
