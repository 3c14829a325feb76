"""Methods against each other on one network: the same split, the same images, the same short finetune.

Each method's structure is made a network twice: cut as the method itself does (sliced and recalibrated, or added where
that is exact), and sequentially reconstructed; the latter is finetuned. Nothing is chosen by these figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autoprune.config.experiment import Comparison
from autoprune.core.budget import Budget, parse_budgets
from autoprune.core.space import SearchSpace
from autoprune.errors import AutopruneError, ConfigError
from autoprune.methods.base import Pruned
from autoprune.methods.reduction import Reduction, own_reduction
from autoprune.methods.registry import make_method
from autoprune.models.reduction.selection import keep_best
from autoprune.report.observer import Observer
from autoprune.searching.delivery.pruning import Decision, cut_as_decided, decide, evaluation_of, subject_of
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import load_problem
from autoprune.searching.latency.timing import torch_threads
from autoprune.searching.search.finish import Finisher, cost_entry, figures
from autoprune.searching.search.preparation import Prepared, prepare, useful_threads
from autoprune.searching.search.running import searched

#: The row of a whole search among the methods.
SEARCH = "search"

Row = Mapping[str, Any]
Display = Callable[[int], Observer]


class Contest:
    """One network, prepared once, on which any number of methods can be run."""

    def __init__(self, compared: Comparison, options: SearchOptions, observer: Observer) -> None:
        """Loads and prepares the network.

        Raises:
            AutopruneError: a method is unknown, a budget cannot be reached, or the network cannot be had.
        """
        self._compared = compared
        self._methods = {name: None if name == SEARCH else make_method(name) for name in compared.methods}
        for name, method in self._methods.items():
            if method is not None and method.as_published:
                raise ConfigError(f"{name!r} as published takes no budget and cannot be compared within one.")
        self._observer = observer
        # They are met one at a time, but latency is known only if it was asked for at first.
        timed = tuple(budget for budget in compared.budgets if Budget.parse(budget).resource == "latency")
        options = replace(options, budgets=(timed or compared.budgets)[:1])
        self._prepared = prepare(load_problem(options, observer), options, observer)
        network = self._prepared.network
        # All of them now: a budget out of reach is found before the first method has run for minutes.
        self._spaces = {
            budget: SearchSpace.build(network.groups, network.cost_model, parse_budgets([budget]))
            for budget in compared.budgets
        }
        self._finisher = Finisher(self._prepared, observer, epochs=options.finetune_epochs or 0.0)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(budget, method) of every row, in order."""
        return [(budget, method) for budget in self._compared.budgets for method in self._compared.methods]

    @property
    def fingerprint(self) -> str:
        """Of the dense weights."""
        return self._prepared.fingerprint

    def about(self) -> dict[str, Any]:
        """Returns what all rows have in common: network, data, images, the dense network's cost and accuracy."""
        prepared, split = self._prepared, self._prepared.split
        return {
            "model": prepared.problem.name,
            "data": prepared.problem.data.name,
            "metric": prepared.problem.data.task.reported,
            "scope": prepared.options.scope,
            "seed": prepared.options.seed,
            "finetune_epochs": prepared.options.finetune_epochs or 0.0,
            "method_epochs": self._compared.method_epochs,
            "candidates": prepared.options.candidates,
            "weights": self.fingerprint,
            "images": {
                "calibration": len(split.calibration),
                "final_calibration": self._finisher.images,
                "holdout": len(split.holdout),
                "test": len(prepared.problem.data.test),
            },
            "dense": {
                **figures(self._finisher.tested(prepared.problem.model)),
                **cost_entry(prepared.network.cost_model.dense),
            },
        }

    def rows(self, pairs: Sequence[tuple[str, str]]) -> Iterator[Row]:
        """Yields the rows of (budget, method) pairs; a method that fails has a row that says why."""
        for budget, name in pairs:
            try:
                yield self._row(budget, name)
            except AutopruneError as error:
                self._observer.warning(f"{name} within {budget} failed: {error}")
                yield {"budget": budget, "method": name, "failed": str(error)}

    def _row(self, budget: str, name: str) -> Row:
        options = replace(self._prepared.options, budgets=(budget,))
        prepared = replace(self._prepared, space=self._spaces[budget], options=options)
        with torch_threads(useful_threads(prepared.problem.data.input_shape)):
            decision, source, trains = self._decision(name, prepared)
            return self._measured(budget, name, prepared, decision) | {
                "source": source,
                "epochs": self._compared.method_epochs if trains else 0.0,
            }

    def _decision(self, name: str, prepared: Prepared) -> tuple[Decision, str, bool]:
        method = self._methods[name]
        if method is None:
            evaluation, report = searched(prepared, self._observer)
            kept = keep_best(prepared.rankings, evaluation.candidate.structure.widths)
            facts: dict[str, float | int | str] = {
                "candidates": prepared.options.candidates,
                "proposed_by": evaluation.candidate.proposed_by,
            }
            pruned = Pruned(kept, prepared.problem.model, facts=facts)
            return Decision(pruned, report.seconds), "ours: the search, on the hold-out", False
        subject = subject_of(prepared, self._compared.method_epochs, self._observer)
        return decide(name, method, subject, self._observer), method.source, method.trains

    def _measured(self, budget: str, name: str, prepared: Prepared, decision: Decision) -> dict[str, Any]:
        pruned, finisher = decision.pruned, self._finisher
        subject = subject_of(prepared, self._compared.method_epochs, self._observer)
        own = own_reduction(pruned)
        self._observer.stage(f"Cutting {name} within {budget}")
        plain, rebuilt = (cut_as_decided(finisher, subject, pruned, how=how) for how in (own, Reduction.SEQUENTIAL))
        sliced = finisher.tested(plain).accuracy
        evaluation = evaluation_of(prepared, decision, rebuilt, name)
        finished = finisher.finetuned(f"{name} within {budget}", rebuilt, pruned.kept, evaluation)
        tuned = finished.accuracy_before_finetune is not None
        return {
            "budget": budget,
            "method": name,
            "own_reduction": own.value,
            "own": sliced,
            "reconstructed": finished.accuracy_before_finetune if tuned else finished.accuracy,
            "finetuned": finished.accuracy if tuned else None,
            "holdout": evaluation.accuracy,
            "seconds": decision.seconds,
            **cost_entry(prepared.network.cost_model.cost(pruned.kept.structure)),
            "widths": pruned.kept.structure.by_group(prepared.network.groups),
            "facts": dict(pruned.facts),
        }
