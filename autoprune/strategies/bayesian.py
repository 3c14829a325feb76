"""Bayesian optimisation by Optuna behind ask and tell: multivariate TPE, and a Gaussian process.

Studies stay in memory: persistent storages commit every parameter (2.6 s a proposal at 110 groups), and the search's
own ledger is what a run resumes from. Non-finite values never reach Optuna; failures are told as failed trials.
"""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from autoprune.core.candidate import Evaluation, Outcome
from autoprune.core.profile import ModelProfile
from autoprune.core.seeds import derive_seed
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.strategies.base import ProposingStrategy
from autoprune.strategies.seeding import seed_structures

_SMALLEST_RATIO = 0.02
#: Trials in a row that decode to known structures before a neighbour is proposed instead.
_ATTEMPTS = 5


class OptunaStrategy(ProposingStrategy):
    """TPE or a Gaussian process over retain ratios; heuristic structures are the first trials.

    A band is searched with the share of the dense cost as a second objective. The Gaussian process takes seconds a
    proposal beyond 200 candidates.
    """

    def __init__(
        self, space: SearchSpace, *, name: str, seed: int, candidates: int, profile: ModelProfile | None = None
    ) -> None:
        super().__init__(space, name=name, seed=seed, candidates=candidates)
        self._names = [f"r{index:03d}" for index in range(space.dimension)]
        self._distributions: dict[str, BaseDistribution] = {
            one: FloatDistribution(_SMALLEST_RATIO, 1.0) for one in self._names
        }
        self._trials: dict[int, Trial] = {}
        directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][: 2 if space.is_band else 1]
        with _quiet():
            self._study = optuna.create_study(
                directions=directions, sampler=_sampler(name, seed=derive_seed(seed, name), candidates=candidates)
            )
            for structure in seed_structures(space, profile)[: max(1, candidates // 4)]:
                ratios = [max(_SMALLEST_RATIO, float(ratio)) for ratio in space.encode(structure)]
                self._study.enqueue_trial(dict(zip(self._names, ratios, strict=True)))

    def _next(self, candidate_id: int) -> Structure | None:
        for _ in range(_ATTEMPTS):
            with _quiet():
                trial = self._study.ask(self._distributions)
            structure = self.space.decode([[trial.params[one] for one in self._names]])[0]
            if self._is_new(structure):
                self._trials[candidate_id] = trial
                return structure
            self._close(trial, self.outcomes.get(structure))
        # The sampler has converged: the neighbourhood of its last wish, outside of its study.
        return self._fresh(structure, self._rng("idle", candidate_id))

    def _learn(self, outcome: Outcome) -> None:
        trial = self._trials.pop(outcome.candidate.id, None)
        if trial is not None:
            self._close(trial, outcome)

    def _close(self, trial: Trial, outcome: Outcome | None) -> None:
        with _quiet():
            if not isinstance(outcome, Evaluation):
                self._study.tell(trial, state=TrialState.FAIL)
                return
            values = [outcome.merit, self.space.share(outcome.candidate.cost)]
            self._study.tell(trial, values[: len(self._study.directions)])


class _quiet:  # noqa: N801 - a context manager, used like a function
    """Silences Optuna's notices within a block and restores its verbosity."""

    def __enter__(self) -> None:
        self._verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *exception: object) -> None:
        self._caught.__exit__(*exception)  # type: ignore[arg-type]
        optuna.logging.set_verbosity(self._verbosity)


def _sampler(name: str, *, seed: int, candidates: int) -> Any:
    startup = max(4, min(20, candidates // 5))
    with _quiet():
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=startup, n_ei_candidates=48
        )
