"""Makes any evaluated candidate a network: cut again from the dense weights, finetuned if asked, tested, saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate, Evaluation
from autoprune.core.cost import Cost
from autoprune.core.front import rank
from autoprune.core.resources import RESOURCES
from autoprune.errors import ConfigError, RunError
from autoprune.report.observer import Observer
from autoprune.searching.delivery.registering import Registration, log_finished, write_request
from autoprune.searching.delivery.second_process import Aside
from autoprune.searching.inputs.problems import load_problem
from autoprune.searching.inputs.recorded import recorded_options
from autoprune.searching.inputs.run_folder import RunFolder
from autoprune.searching.latency.timing import torch_threads
from autoprune.searching.search.finish import Finisher, describe, save_finished
from autoprune.searching.search.preparation import Prepared, prepare, useful_threads
from autoprune.searching.search.running import store_of
from autoprune.study.history import Reading
from autoprune.study.ledger import Event, run_of


@dataclass(frozen=True, slots=True)
class Choice:
    """Which candidate to take; of several that fit, the best.

    Attributes:
        id: this one.
        budget: the most accurate within this budget.
        min_accuracy: the cheapest with at least this hold-out accuracy, in [0, 1].
    """

    id: int | None = None
    budget: str | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        if self.id is not None and (self.budget is not None or self.min_accuracy is not None):
            raise ConfigError("--id names one candidate: leave --budget and --min-accuracy out.")
        if self.budget is not None:
            Budget.parse_limit(self.budget)
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise ConfigError(f"--min-accuracy {self.min_accuracy:g} must lie in [0, 1], for example 0.92.")

    def require_told(self, events: Sequence[Event]) -> None:
        """Refuses an id that a ledger says nothing of, before anything is prepared for it.

        Raises:
            ConfigError: no such candidate was told.
        """
        told = {int(event["id"]) for event in events if event["event"] == "told"}
        if self.id is not None and self.id not in told:
            raise self._unknown(max(told, default=-1))

    def _unknown(self, last: int) -> ConfigError:
        known = f"The candidates are 0 to {last}." if last >= 0 else "None was: continue the search with --resume."
        return ConfigError(f"Candidate {self.id} was not evaluated. {known}")

    def of(self, evaluations: Sequence[Evaluation], prepared: Prepared) -> Evaluation:
        """Returns the chosen evaluation.

        Raises:
            ConfigError: no candidate fits.
        """
        if self.id is not None:
            mine = [item for item in evaluations if item.candidate.id == self.id]
            if not mine:
                raise self._unknown(max((item.candidate.id for item in evaluations), default=-1))
            return mine[-1]
        if not evaluations:
            raise ConfigError("No evaluated candidate fits: none was evaluated. Continue the search with --resume.")
        top = max(item.candidate.fidelity.level for item in evaluations)
        fitting = [item for item in evaluations if item.candidate.fidelity.level == top]
        if self.budget is not None:
            fitting = self._within(self.budget, fitting, prepared.network.cost_model.dense)
        if self.min_accuracy is not None:
            best = max(item.accuracy for item in fitting)
            fitting = [item for item in fitting if item.accuracy >= self.min_accuracy]
            if not fitting:
                where = "" if self.budget is None else f" within {self.budget}"
                raise ConfigError(
                    f"No evaluated candidate{where} has a hold-out accuracy of {self.min_accuracy:g}: the best is "
                    f"{best:.4f}. Ask for less."
                )
        resource = prepared.space.front_resource
        if self.min_accuracy is not None:
            return min(fitting, key=lambda item: (item.candidate.cost.of(resource), rank(item, resource)))
        return min(fitting, key=lambda item: rank(item, resource))

    def _within(self, budget: str, evaluations: Sequence[Evaluation], dense: Cost) -> list[Evaluation]:
        """Returns those within a budget, of which there must be one."""
        limit = Budget.parse(budget).resolve(dense)
        found = [item for item in evaluations if limit.allows(item.candidate.cost)]
        if not found:
            least = min(item.candidate.cost.of(limit.resource) for item in evaluations)
            share = f"{100 * least / dense.of(limit.resource):.1f} % of the {RESOURCES[limit.resource].share_of}"
            raise ConfigError(
                f"No evaluated candidate is within {budget}: the cheapest keeps {share} ({limit.shown(least)}). Allow "
                "more, or search a range: autoprune search --front 20..80%flops."
            )
        return found


def pick(
    run: Path,
    choice: Choice,
    *,
    observer: Observer,
    out: Path | None = None,
    finetune_epochs: float = 0.0,
    registration: Registration | None = None,
    aside: Aside | None = None,
) -> dict[str, Any]:
    """Returns what `summary.json` would say of the chosen candidate, having saved it.

    Args:
        run: the folder of a search.
        choice: which candidate.
        observer: hears of the stages.
        out: where to save it; `RUN/picked-ID` if None.
        finetune_epochs: with distillation from the dense network; 0 for none.
        registration: where in MLflow it is written down; where the search is, unregistered, if None.
        aside: the processes that export it and write there; this one if None.

    Raises:
        RunError: the folder holds no search, or the dense network has other weights by now.
        ConfigError: no candidate fits.
        BackendError: it cannot be registered.
    """
    registration = registration or Registration()
    events = RunFolder(run).events()
    header = run_of(events)
    choice.require_told(events)
    options = recorded_options(header, run, registration.changes)
    tracked = registration.wanted(options)
    if aside is not None:
        if tracked:
            aside.open(store_of(options))
        else:
            aside.close()
    problem = load_problem(options, observer)
    prepared = prepare(problem, options, observer, recorded_latency=header.get("latency"))
    if prepared.fingerprint != header.get("weights"):
        raise RunError(f"The dense network of {str(run)!r} had other weights. Put the weights of the search back.")
    chosen = choice.of(recorded(events, prepared), prepared)
    with torch_threads(useful_threads(prepared.problem.data.input_shape)):
        finished = Finisher(prepared, observer, epochs=finetune_epochs).finish(
            f"candidate {chosen.candidate.id}", chosen
        )
    directory = out or run / f"picked-{chosen.candidate.id}"
    entry = {
        **describe(finished, prepared),
        "metric": prepared.problem.data.task.reported,
        "finetune_epochs": finetune_epochs,
        "directory": str(directory),
    }
    save_finished(directory, finished, prepared, info={**entry, "budget": list(options.goals), "seed": options.seed})
    request = write_request(directory, prepared)
    mlflow = None
    if tracked:
        mlflow = log_finished(
            finished,
            prepared,
            entry,
            directory=directory,
            run_uuid=str(header.get("uuid")),
            register=registration.register,
            observer=observer,
            aside=aside,
        )
    return {**entry, "run": str(run), "request": str(request), "mlflow": mlflow}


def recorded(events: Sequence[Event], prepared: Prepared) -> list[Evaluation]:
    """Returns the evaluations that a ledger records, in the order in which they were told.

    Raises:
        RunError: it is the ledger of another search.
    """
    space = prepared.space

    def here(candidate: Candidate) -> Candidate:
        structure = candidate.structure
        return replace(candidate, cost=space.cost(structure), legal=space.is_legal(structure))

    return Reading(prepared.ladder.rungs, space.groups, here).evaluations(events)
