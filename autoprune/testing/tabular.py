"""A landscape from recorded evaluations of a real network: what a strategy would have met, in microseconds.

Between the recorded structures scores are interpolated, in logits, one regression per rung. What the interpolation
misses of the records, known by leaving each of them out, is laid over it as noise: a function of the structure. A
search is judged by the interpolated score, without that noise: accuracies on small hold-outs are too coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoprune.core.budget import parse_budgets
from autoprune.core.candidate import Candidate, Evaluation, Ladder
from autoprune.core.cost import FloatArray
from autoprune.core.profile import ModelProfile
from autoprune.core.seeds import generator
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.testing.interpolation import Interpolation
from autoprune.testing.table import Table

#: Shares nearer to 0 or 1 have logits beyond all others.
_LEAST = 2e-3


@dataclass(frozen=True, eq=False)
class TabularLandscape:
    """A landscape interpolated from a table.

    Attributes:
        table: what was recorded.
        space: what is searched.
        ladder: the rungs of the table, or its last one alone.
        seed: of the noise.
    """

    table: Table
    space: SearchSpace
    ladder: Ladder
    seed: int

    @property
    def profile(self) -> ModelProfile:
        """What heuristics read of the network."""
        return self.table.profile

    def accuracy(self, structure: Structure) -> float:
        """Returns the interpolated score in [0, 1] at the top rung: what a search maximises, and is judged by."""
        return float(_share(self._rungs[-1].score(_row(structure)))[0])

    def evaluate(self, candidate: Candidate) -> Evaluation:
        """Returns the score of a candidate at its rung, with the noise of its structure, and the seconds it takes."""
        row, model = _row(candidate.structure), self._rungs[candidate.fidelity.level - len(self.ladder.rungs)]
        noise = generator(self.seed, "noise", candidate.fidelity.name, *candidate.structure.widths).normal()
        score = float(_share(model.score(row) + model.noise * noise)[0])
        return Evaluation(candidate, score=score, accuracy=score, seconds=float(np.exp(model.seconds(row)[0])))

    @property
    def noise(self) -> float:
        """Standard deviation of what the interpolation misses at the top rung, in logits of the score."""
        return self._rungs[-1].noise

    def left_out(self) -> tuple[FloatArray, FloatArray]:
        """Returns (n,) recorded scores at the top rung, and what the interpolation makes of each from all others."""
        return _share(self._rungs[-1].recorded), _share(self._rungs[-1].score.left_out)

    def shares(self) -> FloatArray:
        """Returns (n,) the share of the dense MACs that each of those structures keeps."""
        kept = self.table.widths[~np.isnan(self.table.scores[:, -1])]
        found: FloatArray = self.space.cost_model.costs("macs", kept) / self.space.cost_model.dense.macs
        return found

    @cached_property
    def _rungs(self) -> tuple[_Rung, ...]:
        return tuple(_Rung.of(self.table, column) for column in range(len(self.table.ladder.rungs)))


@dataclass(frozen=True, eq=False)
class _Rung:
    """What is interpolated of one rung: logits of scores, and logarithms of seconds.

    Attributes:
        recorded: logits of the recorded scores.
        score: their interpolation.
        noise: standard deviation of its leave-one-out errors.
        seconds: interpolation of the logarithms of the seconds.
    """

    recorded: FloatArray
    score: Interpolation
    noise: float
    seconds: Interpolation

    @classmethod
    def of(cls, table: Table, column: int) -> _Rung:
        known = ~np.isnan(table.scores[:, column])
        recorded = _logit(table.scores[known, column])
        score = _interpolated(table, recorded, known, pairs=True)
        noise = float(np.sqrt(np.mean((recorded - score.left_out) ** 2)))
        seconds = np.log(np.maximum(table.seconds[known, column], 1e-4))
        # No products of groups: a cost is nearly a sum, and times are noisier than scores.
        return cls(recorded, score, noise, _interpolated(table, seconds, known, pairs=False))


def tabular_landscape(
    table: Table | str | Path, *, budget: str | Sequence[str] = "50%flops", rungs: int = 1, seed: int = 0
) -> TabularLandscape:
    """Returns the landscape of a recorded network under a budget.

    Args:
        table: a table, a file, or a name that ships (`table_names()`).
        budget: as on the command line; on FLOPs, parameters or bytes of weights.
        rungs: how many of the table's rungs are climbed, the last of them included.
        seed: of the noise.

    Raises:
        ConfigError: there is no such table.
        BudgetError: the budget cannot be read or reached.
    """
    table = table if isinstance(table, Table) else Table.load(table)
    climbed = table.ladder.rungs[-rungs:]
    ladder = Ladder(tuple(replace(rung, level=level) for level, rung in enumerate(climbed)), keep=table.ladder.keep)
    space = SearchSpace.build(table.groups, table.cost_model, parse_budgets(budget))
    return TabularLandscape(table, space, ladder, seed)


def _interpolated(table: Table, values: FloatArray, known: npt.NDArray[np.bool_], *, pairs: bool) -> Interpolation:
    dense = np.asarray(table.cost_model.dense_widths, dtype=np.float64)
    return Interpolation.of(table.widths[known].astype(np.float64), values, dense, pairs=pairs)


def _row(structure: Structure) -> FloatArray:
    return np.asarray([structure.widths], dtype=np.float64)


def _logit(shares: FloatArray) -> FloatArray:
    within = np.clip(shares, _LEAST, 1 - _LEAST)
    found: FloatArray = np.log(within / (1 - within))
    return found


def _share(logits: FloatArray) -> FloatArray:
    found: FloatArray = 1 / (1 + np.exp(-logits))
    return found
