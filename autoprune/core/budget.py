"""What may remain of the dense network, as a user writes it: `50%flops`, `1.5Mparams`, `20MB`, `peak 300MB`, `5ms`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autoprune.core.cost import Cost
from autoprune.core.resources import RESOURCES, Resource
from autoprune.errors import BudgetError, nearest

_NUMBER = r"\d+(?:\.\d+)?"
_PATTERN = re.compile(
    rf"(?:(?P<prefix>[a-z]+)\s+)?(?:(?P<low>{_NUMBER})\.\.)?(?P<high>{_NUMBER})\s*(?P<percent>%?)\s*(?P<unit>[a-z]*)"
)
#: What people write for a range: `20-80%flops`, `20%..80%flops`.
_BAND = re.compile(rf"(?P<low>{_NUMBER})\s*%?\s*(?:-|\.\.\.?|to)\s*(?P<high>{_NUMBER})(?P<rest>\s*%?\s*[A-Za-z]+)")
_EXAMPLE = (
    'Write what may remain of the dense model, for example "50%flops", "1.5Mparams", "20MB" (weights), '
    '"peak 300MB" (activations) or "5ms" (latency).'
)


def _spellings(*, shares: bool) -> dict[tuple[str, str], tuple[Resource, str]]:
    """Returns {(prefix, unit in small letters): (resource, unit)} of counts, or of what a share may be of."""
    return {
        (resource.prefix if unit in resource.units else "", unit.lower()): (resource, unit)
        for resource in RESOURCES.values()
        for unit in (*resource.units, *(resource.shares if shares else ()))
        if unit
    }


_COUNTS: Mapping[tuple[str, str], tuple[Resource, str]] = _spellings(shares=False)
_SHARES: Mapping[tuple[str, str], tuple[Resource, str]] = {
    **_spellings(shares=True),
    **{(resource.prefix, ""): (resource, "") for resource in RESOURCES.values() if resource.prefix},
}


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on one resource, and the lower end of the band when a whole front is asked for.

    Attributes:
        text: as the user wrote it.
        resource: name of a resource, for example `macs`.
        limit: the most that may remain: a share in (0, 1] of the dense cost if `relative`, else a count.
        floor: the lower end of the band in the same terms; equal to `limit` for a single budget.
        relative: whether `limit` and `floor` are shares of the dense cost.
        unit: that the user counts in; None where amounts are shown in whatever suits them.
    """

    text: str
    resource: str
    limit: float
    floor: float
    relative: bool
    unit: str | None = None

    @property
    def is_band(self) -> bool:
        """Whether it spans a range of costs (`20..80%flops`)."""
        return self.floor < self.limit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Returns the budget that a text such as `50%flops`, `peak 300MB` or `20..80%flops` describes.

        Raises:
            BudgetError: the text cannot be read, or the share does not lie in (0, 100].
        """
        match = _PATTERN.fullmatch(text.strip().lower())
        relative = match is not None and match["percent"] == "%"
        known, prefix = _SHARES if relative else _COUNTS, (match["prefix"] or "") if match else ""
        if match is None or ((prefix, match["unit"]) not in known and not match["unit"]):
            raise BudgetError(f"Cannot read the budget {text!r}. {_hint(text)}{_EXAMPLE}")
        if (prefix, match["unit"]) not in known:
            raise BudgetError(_unknown(text, prefix, match["unit"], known))
        resource, unit = known[prefix, match["unit"]]
        factor = 0.01 if relative else resource.units[unit]
        limit = float(match["high"]) * factor
        floor = float(match["low"]) * factor if match["low"] is not None else limit
        if math.isinf(limit) or math.isinf(floor):
            raise BudgetError(f"The budget {text[:20] + '...'!r} is larger than any network. {_EXAMPLE}")
        if not limit > 0 or (relative and limit > 1):
            raise BudgetError(f"The budget {text!r} must lie above 0 and, as a share, at most at 100 %. {_EXAMPLE}")
        if floor > limit:
            raise BudgetError(f"The budget {text!r} starts above its end. Write the smaller number first.")
        # A share leaves open in which scale amounts are shown, but not whether FLOPs or MACs are meant.
        told = not relative or (unit in resource.units and unit not in resource.shown_in)
        return cls(text.strip(), resource.name, limit, floor, relative, unit if told else None)

    @classmethod
    def parse_limit(cls, text: str) -> Budget:
        """Returns the budget that a text describes, which must be one limit.

        Raises:
            BudgetError: the text cannot be read, or is a range.
        """
        budget = cls.parse(text)
        if budget.is_band:
            end = re.sub(rf"{_NUMBER}\.\.", "", budget.text)
            raise BudgetError(f"The budget {text!r} is a range. Write one limit, for example {end!r}.")
        return budget

    def resolve(self, dense: Cost) -> Limit:
        """Returns the limit in whole units for a network of this dense cost.

        Raises:
            BudgetError: the dense network's cost in this resource is not known.
        """
        scale = float(dense.of(self.resource)) if self.relative else 1.0
        # 1e-9: a share such as 0.57 has no exact binary form, and 57 % of 100 MACs are 57, not 56.
        floor, ceiling = int(self.floor * scale + 1e-9), int(self.limit * scale + 1e-9)
        return Limit(self.text, self.resource, floor, ceiling, self.unit)


def _hint(text: str) -> str:
    """Returns what a text that is no budget was probably meant to be, empty where nothing is likely."""
    if "," in text:
        return "Give each of several limits as a budget of its own. "
    band = _BAND.fullmatch(text.strip())
    return f"Write a range as {band['low']}..{band['high']}{band['rest']}. " if band else ""


def _unknown(text: str, prefix: str, unit: str, known: Mapping[tuple[str, str], tuple[Resource, str]]) -> str:
    prefixes = {before for before, _ in known if before}
    if prefix and prefix not in prefixes:
        return f"Unknown word {prefix!r} in the budget {text!r}.{nearest(prefix, prefixes)} {_EXAMPLE}"
    units = {name for before, name in known if before == prefix and name}
    return f"Unknown resource {unit!r} in the budget {text!r}.{nearest(unit, units)} {_EXAMPLE}"


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget in whole units: `floor <= cost <= ceiling` is asked of `resource` (`floor` only of a band).

    Attributes:
        text: the budget as written.
        resource: name of a resource, for example `macs`.
        floor: the lower end of the band that is searched; equal to `ceiling` for a single budget.
        ceiling: the most that may remain.
        unit: that the user counts in; None where amounts are shown in whatever suits them.
        raised: whether the band was written to start lower, where no structure lies.
    """

    text: str
    resource: str
    floor: int
    ceiling: int
    unit: str | None = field(default=None, compare=False)
    raised: bool = field(default=False, compare=False)

    @property
    def is_band(self) -> bool:
        """Whether it spans a range of costs."""
        return self.floor < self.ceiling

    def reaching(self, least: int) -> Limit:
        """Returns the limit without the part of its band below the least that any structure takes."""
        if not self.is_band or least <= self.floor:
            return self
        # A band stays one, even where nothing but its upper end can be reached.
        return replace(self, floor=min(least, self.ceiling - 1), raised=True)

    def allows(self, cost: Cost) -> bool:
        """Returns whether a cost lies within the limit.

        Raises:
            BudgetError: the cost in this resource is not known.
        """
        return cost.of(self.resource) <= self.ceiling

    def shown(self, amount: float) -> str:
        """Returns an amount of the resource for people, in the unit that the user counts in."""
        return RESOURCES[self.resource].shown(amount, self.unit)


def front_resource(limits: Iterable[Budget | Limit]) -> str:
    """Returns what a front trades for accuracy: the resource of the band that is searched, MACs where none is."""
    return next((limit.resource for limit in limits if limit.is_band), "macs")


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
