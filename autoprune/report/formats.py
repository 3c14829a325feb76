"""How figures are written for people: `40.8 M`, `92.60 %`, `1:05`. One form everywhere, so that figures compare."""

from __future__ import annotations

import math

from autoprune.core.resources import RESOURCES

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_MISSING = "-"


def count(value: float | None) -> str:
    """Returns a count in three significant digits, for example `40.8 M`, `1.23 G`, `272 k` or `97`."""
    if value is None or not math.isfinite(value):
        return _MISSING
    for scale, letter in _SCALES:
        # 999.5 k would round to `1000 k`: it belongs to the next scale.
        if abs(value) >= 0.9995 * scale:
            scaled = value / scale
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f} {letter}"
    return f"{value:.0f}"


def amount(resource: str, value: float) -> str:
    """Returns so much of a resource with its unit, for example `40.8 M MACs`, `272 k parameters` or `5.03 ms`."""
    units = {"macs": "MACs", "params": "parameters"}
    return f"{count(value)} {units[resource]}" if resource in units else RESOURCES[resource].shown(value)


def leading(metric: str) -> str:
    """Returns the name of a metric as it begins a sentence; `mAP@0.5` keeps its letters."""
    return metric.capitalize() if metric.islower() else metric


def accuracy(value: float | None) -> str:
    """Returns an accuracy in [0, 1] as `92.60 %`."""
    return _MISSING if value is None or not math.isfinite(value) else f"{100 * value:.2f} %"


def share(value: float | None) -> str:
    """Returns a share in [0, 1] as `50.0 %`."""
    return _MISSING if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def points(value: float | None) -> str:
    """Returns a difference of two accuracies as `+1.25` points."""
    return _MISSING if value is None or not math.isfinite(value) else f"{100 * value:+.2f}"


def epochs(number: float) -> str:
    """Returns so many epochs, for example `1 epoch` or `0.5 epochs`."""
    return f"{number:g} epoch{'s' if number != 1 else ''}"


def duration(seconds: float | None) -> str:
    """Returns a duration as `0:42`, `12:05`, `3:00:00` or `2 d 03:00`."""
    if seconds is None or not math.isfinite(seconds):
        return _MISSING
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def milliseconds(seconds: float | None) -> str:
    """Returns a duration as `1.23 ms`."""
    return _MISSING if seconds is None or not math.isfinite(seconds) else f"{1000 * seconds:.3g} ms"


def one_line(text: str, *, limit: int = 200) -> str:
    """Returns a text as one line without control characters, cut to `limit` characters.

    Reasons of failures and names come from elsewhere; a terminal would obey escape sequences in them.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
