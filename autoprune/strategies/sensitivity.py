"""Sensitivity: measure one group at a time, then solve for the budget.

What the tools that are alive do (ModelOpt's FastNAS, PaddleSlim, Vitis): a table of what each group loses at a few
widths while the others stay dense. Two solutions of it are proposed: the smallest largest loss (one threshold,
bisected: FastNAS), and the smallest sum of losses.
"""

from __future__ import annotations

import numpy as np

from autoprune.core.candidate import Evaluation
from autoprune.core.cost import FloatArray
from autoprune.core.profile import ModelProfile
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.strategies.base import ProposingStrategy, common_scale
from autoprune.strategies.tables import DamageTables, allocated, level_widths, thresholded

#: Candidates kept back for the two solutions.
_RESERVED = 2
#: More widths a group than this teach little that interpolation does not know.
_MOST_PROBES = 6
_SMALLEST_RATIO, _LARGEST_RATIO = 0.1, 0.7


class SensitivityStrategy(ProposingStrategy):
    """Probes every group at a few widths, the others dense, then proposes the min-max and the additive solution.

    The probes cost more than the budget on purpose; a study does not let them become the incumbent. With fewer
    candidates than groups, the groups that cost most are probed, and the others are taken to behave like their mean.
    """

    def __init__(
        self, space: SearchSpace, *, name: str, seed: int, candidates: int, profile: ModelProfile | None = None
    ) -> None:
        super().__init__(space, name=name, seed=seed, candidates=candidates)
        self._profile = profile
        self._probes = _probes(space, count=candidates - _RESERVED)
        self._waiting = [probe for probe in self._probes if self._is_new(probe)]
        self._solutions: list[Structure] | None = None

    def _next(self, candidate_id: int) -> Structure | None:  # noqa: ARG002 - the plan does not depend on it
        if self._waiting:
            return self._waiting.pop(0)
        if self._pending and self._solutions is None:
            return None
        if self._solutions is None:
            tables = self._tables()
            self._solutions = list(dict.fromkeys([thresholded(self.space, tables), allocated(self.space, tables)]))
        while self._solutions:
            solution = self._solutions.pop(0)
            if self._is_new(solution):
                return solution
        return None

    def _tables(self) -> DamageTables:
        measured = self._measured()
        rows = level_widths(self.space, 48)
        curves: list[FloatArray] = []
        for group, widths in enumerate(rows):
            points = measured.get(group)
            curves.append(self._curve(group, widths, points) if points else np.full(len(widths), np.nan))
        known = [curve for curve in curves if not np.isnan(curve).any()]
        for group, widths in enumerate(rows):
            if np.isnan(curves[group]).any():
                curves[group] = self._like_the_others(group, widths, known)
        return DamageTables.of(rows, curves)

    def _measured(self) -> dict[int, dict[int, float]]:
        """Returns {group: {width: damage}}; a probe that failed counts as the worst one seen."""
        evaluations = [e for e in self.evaluations if e.candidate.structure in set(self._probes)]
        values = dict(zip((e.candidate.structure for e in evaluations), common_scale(evaluations), strict=True))
        best, worst = max(values.values(), default=1.0), min(values.values(), default=0.0)
        measured: dict[int, dict[int, float]] = {}
        for probe in self._probes:
            outcome = self.outcomes.get(probe)
            group = next(i for i, width in enumerate(probe.widths) if width < self.space.groups[i].width)
            value = values[probe] if isinstance(outcome, Evaluation) else worst
            measured.setdefault(group, {})[probe.widths[group]] = best - value
        return measured

    def _curve(self, group: int, widths: FloatArray, points: dict[int, float]) -> FloatArray:
        """Returns the damage at every width, interpolated over the logarithm and monotone.

        With a profile the interpolation runs over its reconstruction error, which bends the way the damage does.
        """
        axis = self._axis(group)
        known = sorted(points)
        positions = np.array([*(axis(float(width)) for width in known), axis(float(self.space.groups[group].width))])
        damages = np.maximum.accumulate(np.array([0.0, *(points[width] for width in reversed(known))]))[::-1]
        at = np.array([axis(width) for width in widths])
        inside = np.interp(-at, -positions, damages)
        # Below the narrowest probe the damage keeps growing in proportion, instead of staying flat.
        beyond = damages[0] * at / max(positions[0], 1e-9)
        curve: FloatArray = np.where(at > positions[0], np.maximum(beyond, damages[0]), inside)
        return curve

    def _axis(self, group: int) -> _Axis:
        error = self._profile.groups[group].reconstruction_error if self._profile is not None else None
        return _Axis(float(self.space.groups[group].width), error)

    def _like_the_others(self, group: int, widths: FloatArray, known: list[FloatArray]) -> FloatArray:
        deepest = float(np.mean([curve[0] for curve in known])) if known else 1.0
        axis = self._axis(group)
        shape: FloatArray = np.array([axis(width) for width in widths]) / max(axis(1.0), 1e-9)
        return deepest * shape


class _Axis:
    """Maps a width to where damage is about linear: the reconstruction error, or the logarithm; 0 when dense."""

    def __init__(self, dense: float, error: FloatArray | None) -> None:
        self._dense = dense
        self._error = error

    def __call__(self, width: float) -> float:
        log = float(np.log(self._dense / max(width, 1.0)))
        # The logarithm added keeps it strictly monotone where the error is flat.
        return log if self._error is None else float(self._error[int(width)]) + 1e-3 * log


def _probes(space: SearchSpace, *, count: int) -> list[Structure]:
    """Returns at most `count` structures with one group narrowed, group by group within each ratio."""
    per_group = min(_MOST_PROBES, count // space.dimension)
    gradients = [
        form.gradient(np.asarray([space.dense.widths], float))[0] * np.asarray(space.dense.widths)
        for form in (space.cost_model.forms[limit.resource] for limit in space.limits)
    ]
    order = np.argsort(-np.max(gradients, axis=0), kind="stable")
    if per_group <= 0:
        order, per_group = order[: max(0, count)], 1
    ratios = [0.4] if per_group == 1 else np.geomspace(_LARGEST_RATIO, _SMALLEST_RATIO, per_group).tolist()
    probes = []
    for ratio in ratios:
        for group in order.tolist():
            legal = np.asarray(space.groups[group].legal_widths)
            narrower = legal[:-1]
            if len(narrower):
                widths = list(space.dense.widths)
                widths[group] = int(narrower[np.abs(narrower - ratio * legal[-1]).argmin()])
                probes.append(Structure(tuple(widths)))
    return list(dict.fromkeys(probes))
