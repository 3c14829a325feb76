"""What may remain of the dense network, as a user writes it: `50%flops`, `60Mmacs`, `1.5Mparams`, `20..80%flops`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.core.cost import Cost
from autoprune.errors import BudgetError, nearest

_UNITS = {"flops": ("macs", 2.0), "macs": ("macs", 1.0), "params": ("params", 1.0)}
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_PATTERN = re.compile(r"(?:(?P<low>\d+(?:\.\d+)?)\.\.)?(?P<high>\d+(?:\.\d+)?)\s*(?P<scale>[%kmgt]?)(?P<unit>[a-z]+)")
_EXAMPLE = 'Write what may remain of the dense model, for example "50%flops", "40%params", "60Mmacs" or "1.5Mparams".'


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on one resource, and the lower end of the band when a whole front is asked for.

    Attributes:
        text: as the user wrote it.
        resource: `macs` or `params`.
        limit: the most that may remain: a share in (0, 1] of the dense cost if `relative`, else a count.
        floor: the lower end of the band in the same terms; equal to `limit` for a single budget.
        relative: whether `limit` and `floor` are shares of the dense cost.
    """

    text: str
    resource: str
    limit: float
    floor: float
    relative: bool

    @property
    def is_band(self) -> bool:
        """Whether it spans a range of costs (`20..80%flops`)."""
        return self.floor < self.limit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Returns the budget that a text such as `50%flops` or `20..80%flops` describes.

        Raises:
            BudgetError: the text cannot be read, or the share does not lie in (0, 100].
        """
        match = _PATTERN.fullmatch(text.strip().lower())
        if match is None:
            raise BudgetError(f"Cannot read the budget {text!r}. {_EXAMPLE}")
        scale, unit = match["scale"], match["unit"]
        if unit not in _UNITS and scale and scale + unit in _UNITS:
            scale, unit = "", scale + unit
        if unit not in _UNITS:
            raise BudgetError(f"Unknown resource {unit!r} in the budget {text!r}.{nearest(unit, _UNITS)} {_EXAMPLE}")
        resource, per_mac = _UNITS[unit]
        relative = scale == "%"
        factor = 0.01 if relative else _SCALES[scale] / per_mac
        limit = float(match["high"]) * factor
        floor = float(match["low"]) * factor if match["low"] is not None else limit
        if not limit > 0 or (relative and limit > 1):
            raise BudgetError(f"The budget {text!r} must lie above 0 and, as a share, at most at 100 %. {_EXAMPLE}")
        if floor > limit:
            raise BudgetError(f"The budget {text!r} starts above its end. Write the smaller number first.")
        return cls(text.strip(), resource, limit, floor, relative)

    def resolve(self, dense: Cost) -> Limit:
        """Returns the limit in whole MACs or parameters for a network of this dense cost."""
        scale = float(getattr(dense, self.resource)) if self.relative else 1.0
        # 1e-9: a share such as 0.57 has no exact binary form, and 57 % of 100 MACs are 57, not 56.
        return Limit(self.text, self.resource, int(self.floor * scale + 1e-9), int(self.limit * scale + 1e-9))


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget in whole units: `floor <= cost <= ceiling` is asked of `resource` (`floor` only of a band).

    Attributes:
        text: the budget as written.
        resource: `macs` or `params`.
        floor: the lower end of the band; equal to `ceiling` for a single budget.
        ceiling: the most that may remain.
    """

    text: str
    resource: str
    floor: int
    ceiling: int


def parse_budgets(texts: str | Budget | Sequence[str | Budget]) -> tuple[Budget, ...]:
    """Returns the budgets of one text or several; all of them must hold.

    Raises:
        BudgetError: none is given, one cannot be read, or two speak of the same resource.
    """
    items = [texts] if isinstance(texts, str | Budget) else list(texts)
    budgets = tuple(item if isinstance(item, Budget) else Budget.parse(item) for item in items)
    if not budgets:
        raise BudgetError(f"No budget is given. {_EXAMPLE}")
    resources = [budget.resource for budget in budgets]
    if len(set(resources)) < len(resources):
        texts_given = ", ".join(repr(budget.text) for budget in budgets)
        raise BudgetError(f"The budgets {texts_given} limit the same resource twice. Keep the stricter one.")
    return budgets
