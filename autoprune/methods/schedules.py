"""How much is removed by when: decay schedules of methods that prune while they train, and the budget they imply.

Notation:
    t   share of the pruning phase that is over, in [0, 1]
    P   what is removed in the end; a schedule gives the share of P that is removed at t
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from autoprune.core.space import SearchSpace
from autoprune.errors import ConfigError, nearest

#: Where the exponential schedule has removed three quarters (the D of ASFP/PSFP).
_THREE_QUARTERS_AT = 1 / 8


def _exponential(t: float) -> float:
    """Returns the asymptotic schedule (1 - 4^(-8t)) / (1 - 4^-8).

    ASFP/PSFP (2019, as re-implemented in ChainerPruner): a exp(-k t) + b through (0, 0), (D, 3/4), (1, 1) with D = 1/8.
    Normalised to end at 1 exactly, it passes 3/4 at 1/8 to within 2e-5.
    """
    rate = 1 / _THREE_QUARTERS_AT
    return float((1 - 4.0 ** (-rate * t)) / (1 - 4.0**-rate))


#: ASCP (2022) compares "several decay schedules" that could not be had; these are ours but for `exp`.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "const": lambda _: 1.0,
    "linear": lambda t: t,
    "poly": lambda t: 1 - (1 - t) ** 3,
    "exp": _exponential,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
}


def require_schedule(name: str) -> None:
    """Raises ConfigError unless there is a schedule of that name."""
    if name not in SCHEDULES:
        raise ConfigError(f"Unknown schedule {name!r}.{nearest(name, SCHEDULES)}")


def removed_share(name: str, t: float) -> float:
    """Returns the share in [0, 1] of the final removal that a schedule asks for at t; t is clipped to [0, 1].

    Raises:
        ConfigError: there is no such schedule.
    """
    require_schedule(name)
    return SCHEDULES[name](min(1.0, max(0.0, t)))


def space_at(space: SearchSpace, removed: float) -> SearchSpace:
    """Returns the space whose limits lie the share `removed` of the way from the dense cost to the space's own.

    A band becomes its upper end: a method that trains ends at one structure.
    """
    limits = []
    for limit in space.limits:
        dense = space.cost_model.dense.of(limit.resource)
        ceiling = limit.ceiling if removed >= 1 else int(dense - (dense - limit.ceiling) * removed)
        limits.append(replace(limit, floor=ceiling, ceiling=ceiling))
    return SearchSpace(space.groups, space.cost_model, tuple(limits))
