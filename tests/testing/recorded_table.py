"""A table recorded from the synthetic landscape, whose truth is known."""

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.testing.landscape import SyntheticLandscape
from autoprune.testing.table import Table


def recorded_table(landscape: SyntheticLandscape, *, structures: int, failed: tuple[int, ...] = ()) -> Table:
    rng = np.random.default_rng(0)
    found = list(dict.fromkeys(landscape.space.sample(2 * structures, rng)))[:structures]
    rungs = landscape.ladder.rungs
    outcomes = [
        [landscape.evaluate(Candidate(0, one, landscape.space.cost(one), rung, 0, "recorded")) for rung in rungs]
        for one in found
    ]
    scores = np.array([[outcome.score for outcome in row] for row in outcomes])
    scores[list(failed), -1] = np.nan
    return Table(
        groups=landscape.space.groups,
        cost_model=landscape.space.cost_model,
        profile=landscape.profile,
        ladder=landscape.ladder,
        widths=np.array([one.widths for one in found]),
        scores=scores,
        accuracies=scores.copy(),
        seconds=np.array([[outcome.seconds for outcome in row] for row in outcomes]),
        phases=("spread",) * len(found),
        failures={(row, len(rungs) - 1): "out of memory" for row in failed},
        provenance={"seed": 0},
    )
