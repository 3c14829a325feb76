"""The search space: legal structures on the budget.

Strategies propose points of the unit cube, one retain ratio per group. Every point is *projected*: scaled along the ray
from the origin until the budget binds, rounded to legal widths, then topped up channel by channel, so that no proposal
over budget exists and none wastes it.

Notation:
    x   (P, G)  points of the unit cube: wished retain ratios
    w   (P, G)  legal integer widths
    s   (P,)    scale of each point: the wished width of group g is `x_g * s * dense_g`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoprune.core.branches import Branches
from autoprune.core.budget import Budget, Limit, front_resource
from autoprune.core.cost import Cost, CostModel, FloatArray
from autoprune.core.structure import PrunableGroup, Structure
from autoprune.errors import BudgetError, StructureError

Holds = Callable[[FloatArray], npt.NDArray[np.bool_]]

#: A structure whose cost lies less than this share of the dense cost below a limit has used the budget up.
SLACK = 0.001
#: A legal structure within this share below the limit is left as it is.
TOLERATED_SLACK = 0.005
_BISECTIONS = 30
#: Scales that a structure is tried at in one go, and rows that are priced in one go where there are many structures.
_MOST_CUTS, _ROWS = 15, 64
_SMALLEST_WISH = 1e-3


@dataclass(frozen=True)
class SearchSpace:
    """Legal structures of one network under its budgets.

    Attributes:
        groups: the prunable groups, in the order of every widths array.
        cost_model: exact costs over the same groups.
        limits: all must hold; at most one of them is a band, of which no part lies below what can be reached.
    """

    groups: tuple[PrunableGroup, ...]
    cost_model: CostModel
    limits: tuple[Limit, ...]

    @classmethod
    def build(cls, groups: Sequence[PrunableGroup], cost_model: CostModel, budgets: Sequence[Budget]) -> SearchSpace:
        """Returns the space of structures within the budgets.

        Raises:
            BudgetError: a budget lies below the smallest reachable cost, or a range above the dense network's; the
                message names it and what limits it.
            StructureError: there is nothing to prune.
        """
        if not groups:
            raise StructureError(
                "The network has no prunable group. `autoprune trace MODEL` names the reason for each frozen layer."
            )
        space = cls(tuple(groups), cost_model, tuple(budget.resolve(cost_model.dense) for budget in budgets))
        for limit in space.limits:
            space._require_reachable(limit)
        # Costs never fall when a width grows: the smallest structure takes the least of everything, so no limit on
        # another resource raises a floor further.
        least = space.cost(space.smallest)
        return replace(space, limits=tuple(limit.reaching(least.of(limit.resource)) for limit in space.limits))

    @cached_property
    def dense(self) -> Structure:
        """Every group at its dense width."""
        return Structure(tuple(group.width for group in self.groups))

    @cached_property
    def smallest(self) -> Structure:
        """Every group at its smallest legal width."""
        return Structure(tuple(group.legal_widths[0] for group in self.groups))

    @property
    def dimension(self) -> int:
        """G, the number of groups."""
        return len(self.groups)

    @property
    def is_band(self) -> bool:
        """Whether a range of costs is searched rather than one budget."""
        return any(limit.is_band for limit in self.limits)

    @property
    def front_resource(self) -> str:
        """What a front trades for accuracy: the resource of the band, MACs where there is none."""
        return front_resource(self.limits)

    @property
    def unreachable(self) -> str | None:
        """What to tell of a range that was written to start where no structure lies; None where none was."""
        limit = next((limit for limit in self.limits if limit.raised), None)
        if limit is None:
            return None
        least, whole = (cost.of(limit.resource) for cost in (self.cost(self.smallest), self.cost_model.dense))
        return (
            f"The range {limit.text!r} starts below what can be reached: with every prunable group at its minimum, "
            f"{limit.shown(least)} ({100 * least / whole:.1f} % of dense) remain. It is searched from there."
        )

    def share(self, cost: Cost) -> float:
        """Returns the share of the dense network's `front_resource` that a cost keeps."""
        return cost.of(self.front_resource) / self.cost_model.dense.of(self.front_resource)

    def cost(self, structure: Structure) -> Cost:
        """Returns the exact cost of a structure."""
        return self.cost_model.cost(structure)

    def is_legal(self, structure: Structure) -> bool:
        """Returns whether every width is legal and every budget holds."""
        if len(structure) != self.dimension:
            return False
        widths = np.asarray([structure.widths], dtype=np.float64)
        return bool((self._round(widths) == widths).all() and self.within(widths)[0])

    def within(self, widths: FloatArray) -> npt.NDArray[np.bool_]:
        """Returns (P,) whether (P, G) widths, legal or not, hold every limit."""
        within = np.ones(len(widths), dtype=bool)
        for limit in self.limits:
            within &= self.cost_model.forms[limit.resource].relaxed(widths) <= limit.ceiling
        return within

    def decode(self, points: npt.ArrayLike) -> list[Structure]:
        """Returns the structures of (P, G) points of the unit cube, each within budget and using it up."""
        least = _SMALLEST_WISH * self._floor  # a wish of 0 stays one where a group may vanish
        x = np.clip(np.nan_to_num(np.asarray(points, dtype=np.float64), nan=1.0), least, 1.0)
        return self._structures(self._project(x * self._dense))

    def project(self, widths: npt.ArrayLike) -> list[Structure]:
        """Returns the structures nearest to (P, G) wished real widths, each within budget and using it up."""
        return self.decode(np.asarray(widths, dtype=np.float64) / self._dense)

    def encode(self, structure: Structure) -> FloatArray:
        """Returns (G,) retain ratios; `decode` maps them back to the structure if it uses the budget up."""
        return np.asarray(structure.widths, dtype=np.float64) / self._dense

    def uniform(self) -> Structure:
        """Returns the structure with one retain ratio for all groups (at the upper end of a band)."""
        wished = np.ones((1, self.dimension)) * self._dense
        scale = self._largest_scale(wished)
        return self._structures(self._top_up(self._round(wished * scale[:, None]), wished * scale[:, None]))[0]

    def sample(self, count: int, rng: np.random.Generator) -> list[Structure]:
        """Returns `count` random structures: uniform points of the cube, projected."""
        points = rng.uniform(0.05, 1.0, (count, self.dimension))
        if self.branches:
            points = self.branches.flipped(points * self._dense, rng) / self._dense
        return self.decode(points)

    def exchange(self, structure: Structure, rng: np.random.Generator, *, count: int, reach: float) -> list[Structure]:
        """Returns `count` random neighbours: some groups grow, others shrink, the cost stays.

        Args:
            structure: the centre.
            rng: source of randomness.
            count: how many.
            reach: largest relative change of a width, for example 0.3.
        """
        widths = np.repeat(np.asarray([structure.widths], dtype=np.float64), count, axis=0)
        # Few groups move at a time: one up, one down, sometimes more.
        moved = rng.random(widths.shape) < 2.0 / self.dimension
        moved[np.arange(count), rng.integers(self.dimension, size=count)] = True
        change = np.exp(rng.uniform(-reach, reach, widths.shape)) * widths
        one_step = widths + np.where(rng.random(widths.shape) < 0.5, -1, 1) * self._step
        bigger = np.where(np.abs(change - widths) >= self._step, change, one_step)
        wished = np.clip(np.where(moved, bigger, widths), self._floor, self._dense)
        return self.project(self.branches.flipped(wished, rng))

    @cached_property
    def branches(self) -> Branches:
        """The branches that may vanish."""
        return Branches(self.groups)

    @cached_property
    def _dense(self) -> FloatArray:
        return np.asarray([group.width for group in self.groups], dtype=np.float64)

    @cached_property
    def _first(self) -> FloatArray:
        return np.asarray([group.legal_widths[0] for group in self.groups], dtype=np.float64)

    @cached_property
    def _floor(self) -> FloatArray:
        """(G,) 1, or 0 for groups that may vanish."""
        return np.minimum(1.0, self._first)

    @cached_property
    def _step(self) -> FloatArray:
        return np.asarray([group.multiple_of for group in self.groups], dtype=np.float64)

    @cached_property
    def _last_multiple(self) -> FloatArray:
        return np.asarray([group.legal_widths[max(0, len(group.legal_widths) - 2)] for group in self.groups], float)

    def _round(self, widths: FloatArray) -> FloatArray:
        """Returns (P, G) nearest legal widths; monotone in every width."""
        steps = np.rint((widths - self._first) / self._step)
        near: FloatArray = np.clip(self._first + steps * self._step, self._first, self._last_multiple)
        rounded = np.where(widths >= (self._last_multiple + self._dense) / 2, self._dense, near)
        return self.branches.closed(rounded) if self.branches else rounded

    def _next(self, widths: FloatArray) -> FloatArray:
        """Returns (P, G) the next larger legal width of each, or the dense width; what has vanished stays away."""
        up = widths + self._step
        return np.where(widths <= 0, 0.0, np.where(up > self._last_multiple, self._dense, up))

    def _slack(self, widths: FloatArray) -> FloatArray:
        """Returns (P,) the smallest room below any limit that every channel counts in, as a share of the dense cost.

        A peak may be reached while channels elsewhere are still free: it never uses the budget up.
        """
        slack = np.full(len(widths), np.inf)
        for limit in self.limits:
            form = self.cost_model.forms[limit.resource]
            if form.everywhere:
                room = limit.ceiling - form.relaxed(widths)
                slack = np.minimum(slack, room / self.cost_model.dense.of(limit.resource))
        return slack

    def _project(self, wished: FloatArray) -> FloatArray:
        rounded = self._round(wished)
        # Scaling up must not bring back what was wished away.
        wished = np.where(rounded <= 0, 0.0, wished)
        used_up = self._in_band(rounded) if self.is_band else self._slack(rounded) <= TOLERATED_SLACK
        settled = self.within(rounded) & used_up
        if not settled.all():
            rounded[~settled] = self._moved(wished[~settled])
        return rounded

    def _moved(self, wished: FloatArray) -> FloatArray:
        """Returns (P, G) legal widths of wishes that no rounding alone puts onto the budget."""
        scale = self._largest_scale(wished)
        if self.is_band:
            scale = np.where(self._in_band(self._round(wished)) & (scale >= 1), 1.0, scale)
            scale = np.minimum(scale, np.maximum(1.0, self._smallest_scale(wished)))
        target = np.clip(wished * scale[:, None], self._floor, self._dense)
        reached = self._round(wished * scale[:, None])
        return reached if self.is_band else self._top_up(reached, target)

    def _in_band(self, widths: FloatArray) -> npt.NDArray[np.bool_]:
        within = self.within(widths)
        for limit in self.limits:
            if limit.is_band:
                within &= self.cost_model.forms[limit.resource].relaxed(widths) >= limit.floor
        return within

    def _largest_scale(self, wished: FloatArray) -> FloatArray:
        """Returns (P,) the largest scale whose rounded widths hold every limit."""
        return self._bisect(wished, self.within)

    def _smallest_scale(self, wished: FloatArray) -> FloatArray:
        """Returns (P,) a scale just large enough for the rounded widths to enter the band from below."""

        def below(widths: FloatArray) -> npt.NDArray[np.bool_]:
            under = np.zeros(len(widths), dtype=bool)
            for limit in self.limits:
                if limit.is_band:
                    under |= self.cost_model.forms[limit.resource].relaxed(widths) < limit.floor
            return under

        return self._bisect(wished, below) * (1 + 1e-9)

    def _bisect(self, wished: FloatArray, holds: Holds) -> FloatArray:
        """Returns (P,) the largest scale that holds, to `2**-_BISECTIONS` of the range of its logarithm."""
        low = np.full(len(wished), np.log(1e-4))
        high = np.full(len(wished), np.log(1.0 / _SMALLEST_WISH) + 1e-6)
        # Few structures are tried at many scales at once: numpy's overhead is paid less often.
        cuts = int(np.clip(_ROWS // len(wished), 1, _MOST_CUTS))
        rows, inner = np.arange(len(wished)), np.arange(1, cuts + 1) / (cuts + 1)
        for _ in range(math.ceil(_BISECTIONS / math.log2(cuts + 1))):
            tried = low[:, None] + (high - low)[:, None] * inner
            scaled = wished[:, None] * np.exp(tried)[:, :, None]
            fine = holds(self._round(scaled.reshape(-1, self.dimension))).reshape(tried.shape)
            held = np.where(fine.all(axis=1), cuts, fine.argmin(axis=1))
            edges = np.column_stack([low, tried, high])
            low, high = edges[rows, held], edges[rows, held + 1]
        largest: FloatArray = np.exp(low)
        return largest

    def _top_up(self, widths: FloatArray, target: FloatArray) -> FloatArray:
        """Returns (P, G) widths grown a step at a time, the most wanting groups first, while the budget allows."""
        widths, slack = widths.copy(), self._slack(widths)
        for _ in range(int((self._dense / self._step).max())):
            order = np.argsort(-(target - widths) / self._step, axis=1, kind="stable")
            grew = False
            for rank in range(self.dimension):
                # Room only shrinks: what has used the budget up is priced no more.
                rows = np.flatnonzero(slack > SLACK)
                if not len(rows):
                    return widths
                group, places = order[rows, rank], np.arange(len(rows))
                grown = widths[rows]
                grown[places, group] = self._next(grown)[places, group]
                better = (grown[places, group] > widths[rows, group]) & self.within(grown)
                widths[rows[better]] = grown[better]
                slack[rows[better]] = self._slack(grown[better])
                grew |= bool(better.any())
            if not grew:
                break
        return widths

    def _structures(self, widths: FloatArray) -> list[Structure]:
        return [Structure(tuple(row)) for row in widths.astype(np.int64).tolist()]

    def _require_reachable(self, limit: Limit) -> None:
        least, whole = (cost.of(limit.resource) for cost in (self.cost(self.smallest), self.cost_model.dense))
        if limit.is_band and limit.floor > whole:
            raise BudgetError(
                f"The range {limit.text!r} starts at {limit.shown(limit.floor)}, above the {limit.shown(whole)} of the "
                "dense network. Write a range of what may remain of it."
            )
        if least <= limit.ceiling:
            return
        layers = self.cost_model.by_layer(self.smallest)
        amounts = {name: cost.of(limit.resource) for name, cost in layers.items() if limit.resource in cost.known}
        worst = sorted(amounts, key=lambda name: -amounts[name])[:3]
        where = f", most of them in {', '.join(worst)}" if worst else ""
        raise BudgetError(
            f"The budget {limit.text!r} ({limit.shown(limit.ceiling)}) cannot be reached: with every prunable group at "
            f"its minimum, {limit.shown(least)} ({100 * least / whole:.1f} % of dense) remain{where}. "
            "Raise the budget, lower the minimum widths, or widen the scope."
        )
