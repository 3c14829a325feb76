"""Searches as Python callers and the command line start them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.config.layout import INCUMBENT
from autoprune.config.options import OPTIONS, check_options
from autoprune.core.budget import Budget
from autoprune.core.candidate import Evaluation
from autoprune.core.front import ParetoFront
from autoprune.errors import ConfigError, RunError, nearest
from autoprune.models.modules.compiled import inside
from autoprune.report.observer import Observer
from autoprune.report.screens.notebook import default_observer
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import load_problem, problem_from
from autoprune.searching.inputs.recorded import resumed_options
from autoprune.searching.search.running import Concluded, placed, run
from autoprune.strategies.registry import strategy_names

_DEFAULT_BUDGET = "50%flops"


@dataclass(frozen=True, eq=False)
class Incumbent:
    """The best network of a search.

    Attributes:
        evaluation: on the hold-out.
        directory: where it is saved, None if the search was interrupted.
        widths: {group: kept channels}.
    """

    evaluation: Evaluation
    directory: Path | None
    widths: Mapping[str, int]
    _model: nn.Module | None = field(default=None, repr=False)

    def build(self) -> nn.Module:
        """Returns the network, in eval mode on the CPU.

        Raises:
            RunError: the search was interrupted before it was built.
        """
        if self._model is None:
            raise RunError("The search was interrupted before the incumbent was built. Resume it first.")
        return self._model


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        summary: the content of `summary.json`.
        out: the run folder.
        front: evaluations that no other dominates, cheapest first.
        incumbent: the best within budget; None where nothing was evaluated before the search was interrupted, or in
            what `run_search` and `resume_search` return, where every candidate failed.
    """

    summary: Mapping[str, Any]
    out: Path
    front: ParetoFront
    incumbent: Incumbent | None

    def require_found(self) -> None:
        """Checks that the search found a network, or was interrupted before it could.

        Raises:
            RunError: it ended and every candidate had failed; the first failure is named.
        """
        if self.incumbent is None and not self.summary["interrupted"]:
            raise RunError(f"No candidate could be evaluated. {' '.join(self.summary['notes'][-1:])}")


def search(
    model: nn.Module | str,
    data: Any = None,
    *,
    budget: str | Budget | Sequence[str | Budget] | None = None,
    observer: Observer | None = None,
    **options: Any,
) -> SearchResult:
    """Searches from Python; everything else is an option of `SearchOptions`, by name.

    With `out=` a folder that holds a search of the same model, data and options, that search goes on.

    Args:
        model: the dense network, or a name such as `cifar/resnet20-b`.
        data: a name, (training set, test set) or (training, validation, test) of torch data sets or loaders, or a
            `DataBundle`; a validation set scores candidates, else training images are held out; for a classifier also
            images without labels alone, as an (N, C, H, W) float tensor, a data set or a loader of them.
        budget: what may remain, or several budgets that must all hold; half the FLOPs if None and no `front` is given.
        observer: hears how it goes; if None a figure in a notebook, and nobody elsewhere.
        **options: fields of `SearchOptions`.

    Raises:
        AutopruneError: whatever can be fixed by the caller, in one line.
    """
    if observer is not None:
        _require_observer(observer)
    watching = observer or default_observer()
    known = [name for name in OPTIONS if name not in ("model", "data", "budgets")]
    for name in options:
        if name not in known:
            raise ConfigError(f"Unknown option {name!r} of autoprune.search.{nearest(name, known)}")
    given = {name: value for name, value in options.items() if value is not None}
    if "weights" in given and not isinstance(model, str):
        raise ConfigError("A network object brings its own weights. Load them into it and leave `weights` out.")
    if budget is not None or "front" not in given:
        given["budgets"] = _texts(_DEFAULT_BUDGET if budget is None else budget)
    given.update({name: value for name, value in (("model", model), ("data", data)) if isinstance(value, str)})
    named = check_options(given, strategies=strategy_names(), flags=False, resumes=True)
    asked = placed(SearchOptions(**named), model if isinstance(model, str) else type(inside(model)).__name__)
    try:
        result = _result(run(problem_from(model, data, asked, watching), asked, watching))
    finally:
        if observer is None:
            watching.close()
    result.require_found()
    return result


def run_search(options: SearchOptions, *, observer: Observer) -> SearchResult:
    """Runs a search that is described by names alone."""
    options = placed(options, options.model)
    return _result(run(load_problem(options, observer), options, observer))


def resume_search(out: Path, *, observer: Observer, changes: Mapping[str, Any] | None = None) -> SearchResult:
    """Goes on with the search in a run folder.

    Args:
        out: the folder.
        observer: hears how it goes.
        changes: options that are to differ from those it was started with; none that determines its candidates.

    Raises:
        RunError: the folder holds no search, or one that these versions or files do not reproduce.
    """
    return run_search(resumed_options(out, changes), observer=observer)


def _require_observer(observer: Observer) -> None:
    for name in ("stage", "progress", "begins", "asked", "told", "warning", "close"):
        if not callable(getattr(observer, name, None)):
            raise ConfigError(
                f"The observer is a {type(observer).__name__} without the method {name!r}. Give one with those of "
                "autoprune.report.observer.Observer, or none."
            )


def _texts(budget: str | Budget | Sequence[str | Budget]) -> tuple[str, ...]:
    items = [budget] if isinstance(budget, str | Budget) or not isinstance(budget, Sequence) else list(budget)
    for item in items:
        if not isinstance(item, str | Budget):
            raise ConfigError(f"The budget is {item!r}, a {type(item).__name__}. Write a text such as '50%flops'.")
    return tuple(item.text if isinstance(item, Budget) else item for item in items)


def _result(concluded: Concluded) -> SearchResult:
    study, summary = concluded.study, concluded.summary
    incumbent: Incumbent | None = None
    if study.incumbent is not None:
        directory = None if concluded.model is None else concluded.out / INCUMBENT
        incumbent = Incumbent(study.incumbent, directory, summary["incumbent"]["widths"], concluded.model)
    return SearchResult(summary, concluded.out, study.front, incumbent)
