"""What a network takes that a budget can limit: multiply-accumulates, parameters, bytes of weights, peak memory, time.

Costs are whole numbers of each resource's smallest unit, so that a limit holds exactly or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

_SCALES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_BINARY = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing that structures cost. The cost never falls when a width grows: projections rely on it.

    Attributes:
        name: as ledgers and summaries spell it.
        noun: what is limited, for people.
        units: {unit as people write it: how many of the smallest units it is}.
        shown_in: the units that amounts are shown in, ascending.
        shares: further words that a share may be of, such as `50%latency`; empty for none at all.
        prefix: a word before the number, without which the units are those of another resource.
    """

    name: str
    noun: str
    units: Mapping[str, float]
    shown_in: tuple[str, ...]
    shares: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def retained(self) -> str:
        """The key under which the share that is kept of it is reported: people speak of FLOPs, a constant of MACs."""
        return "retained_flops" if self.name == "macs" else f"retained_{self.name}"

    @property
    def share_of(self) -> str:
        """What people call that of which a share is kept."""
        return "FLOPs" if self.name == "macs" else self.noun

    def shown(self, amount: float, unit: str | None = None) -> str:
        """Returns an amount for people, in three digits or more: in a unit, or in the largest that it is one of.

        It is rounded up, so that a limit that is written as shown can be reached.
        """
        fitting = [name for name in self.shown_in if abs(amount) >= self.units[name]]
        unit = unit or (fitting[-1] if fitting else self.shown_in[0])
        value = amount / self.units[unit]
        digits = 0 if self.units[unit] <= 1 else next((d for d in range(6) if abs(value) * 10**d >= 100), 6)
        # 1e-9: 57 % of 100 is 57, not 58.
        return f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:,.{digits}f} {unit}"


def _counted(unit: str, each: float) -> dict[str, float]:
    return {scale + unit: factor * each for scale, factor in _SCALES.items()}


#: {name: resource}, in the order in which costs are reported.
RESOURCES: Mapping[str, Resource] = {
    resource.name: resource
    for resource in (
        # A FLOP is half a multiply-accumulate.
        Resource("macs", "compute", {**_counted("macs", 1.0), **_counted("flops", 0.5)}, ("macs",)),
        Resource("params", "parameters", _counted("params", 1.0), ("params",)),
        Resource("weights", "weights", {**_BYTES, **_BINARY}, tuple(_BYTES), ("weights", "bytes")),
        Resource("peak", "peak activations", {**_BYTES, **_BINARY}, tuple(_BYTES), ("peak",), "peak"),
        Resource("latency", "latency", {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}, ("ns", "us", "ms"), ("latency",)),
    )
}
