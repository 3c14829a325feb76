"""One structure by one method, without a search: chosen, cut, tested and saved like the incumbent of a search."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autoprune.config.layout import INCUMBENT
from autoprune.core.candidate import Candidate, Evaluation, Fidelity, Merge
from autoprune.core.files import require_inside
from autoprune.core.seeds import derive_seed
from autoprune.errors import ConfigError, RunError
from autoprune.methods.base import Method, Pruned, Subject
from autoprune.methods.reduction import Reduction, default_reduction, reduced
from autoprune.methods.registry import make_method
from autoprune.models.cutting.surgery import Kept
from autoprune.report.observer import Observer
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import load_problem
from autoprune.searching.inputs.run_folder import RunFolder
from autoprune.searching.latency.timing import torch_threads
from autoprune.searching.search.finish import Finisher, describe, figures, save_finished
from autoprune.searching.search.latency import latency_entry
from autoprune.searching.search.preparation import Prepared, prepare, useful_threads
from autoprune.searching.search.results import summary_of, write_summary
from autoprune.searching.search.running import placed
from autoprune.study.lock import FolderLock
from autoprune.training.measure import measure

#: What an as-published run needs of a search space: one in which everything fits.
_NO_BUDGET = ("100%flops",)


@dataclass(frozen=True)
class MethodOptions:
    """How one structure is found and cut.

    Attributes:
        method: a name of `autoprune.methods.registry`, or `package.module:Class`.
        settings: the method's own options; texts are read as the type of their default.
        as_published: the published procedure with its fixed constants; no budget then.
        epochs: of training that a method which trains may spend.
        merge: a `Reduction`, or None for the method's default.
        no_training: refuse methods that train, and finetuning.
    """

    method: str = "reconstruction"
    settings: Mapping[str, Any] = field(default_factory=dict)
    as_published: bool = False
    epochs: float = 1.0
    merge: str | None = None
    no_training: bool = False


@dataclass(frozen=True, eq=False)
class Decision:
    """What a method decided, and how long it took.

    Attributes:
        pruned: channels and the network to cut.
        seconds: wall time of the method alone.
    """

    pruned: Pruned
    seconds: float


def prune(
    options: SearchOptions, chosen: MethodOptions, observer: Observer, *, budgeted: bool = True
) -> dict[str, Any]:
    """Returns the summary of the pruned network, having saved it and the summary in a run folder of its own.

    Args:
        options: network, data, budget and folder, as for a search; what concerns candidates is not looked at.
        chosen: the method.
        observer: hears of the stages.
        budgeted: whether the user named a budget, which contradicts `as_published`.

    Raises:
        AutopruneError: whatever the caller can fix, in one line.
    """
    started = time.perf_counter()
    method = method_of(chosen, budgeted=budgeted, finetunes=bool(options.finetune_epochs))
    if method.as_published:
        options = replace(options, budgets=_NO_BUDGET)
    options = placed(options, f"{chosen.method}-{options.model or 'digits'}")
    assert options.out is not None
    # Taken before the method's work, which may take hours: a second driver is refused at once.
    with FolderLock(options.out):
        require_inside(options.out / INCUMBENT, options.out)
        RunFolder(options.out).require_new()
        return _prune(options, chosen, method, observer, started=started)


def _prune(
    options: SearchOptions, chosen: MethodOptions, method: Method, observer: Observer, *, started: float
) -> dict[str, Any]:
    prepared = prepare(load_problem(options, observer), options, observer)
    with torch_threads(useful_threads(prepared.problem.data.input_shape)):
        subject = subject_of(prepared, chosen.epochs, observer)
        decision = decide(chosen.method, method, subject, observer)
        how = reduction_of(chosen, decision.pruned)
        finisher = Finisher(prepared, observer, epochs=options.finetune_epochs or 0.0)
        observer.stage(f"Cutting {prepared.problem.name} ({how.value})")
        model = cut_as_decided(finisher, subject, decision.pruned, how=how)
        evaluation = evaluation_of(prepared, decision, model, chosen.method)
        observer.stage("Testing the dense and the pruned network")
        dense = finisher.tested(prepared.problem.model)
        finished = finisher.finetuned("the pruned network", model, decision.pruned.kept, evaluation)
    networks = {"dense": prepared.space.dense, "incumbent": evaluation.candidate.structure}
    summary = {
        **summary_of(prepared, evaluation, finetune_epochs=options.finetune_epochs or 0.0),
        **({"budget": [], "limits": []} if options.budgets == _NO_BUDGET else {}),
        "incumbent": describe(finished, prepared),
        "latency": latency_entry(prepared, networks),
        "method": {
            "name": chosen.method,
            "source": method.source,
            "as_published": method.as_published,
            "merge": how.value,
            "epochs": chosen.epochs if method.trains else 0.0,
            "seconds": decision.seconds,
            "facts": dict(decision.pruned.facts),
        },
        "seconds": time.perf_counter() - started,
    }
    summary["dense"].update(figures(dense))
    assert options.out is not None
    save_finished(options.out / INCUMBENT, finished, prepared, info={**summary["incumbent"], **summary["method"]})
    write_summary(options.out, summary)
    return summary


def method_of(chosen: MethodOptions, *, budgeted: bool, finetunes: bool) -> Method:
    """Returns the method, having checked that what was asked of it goes together.

    Raises:
        ConfigError: it does not, or the method or a setting of it is unknown.
    """
    settings = dict(chosen.settings)
    if chosen.as_published:
        settings["as_published"] = True
    method = make_method(chosen.method, settings)
    if method.as_published and budgeted:
        raise ConfigError(
            f"{chosen.method} as published has fixed constants and no budget. Leave --budget or --as-published out."
        )
    if chosen.no_training and (method.trains or finetunes):
        what = f"the method {chosen.method!r} trains" if method.trains else "--finetune-epochs is given"
        raise ConfigError(f"--no-training was asked for, but {what}. Leave one of the two out.")
    if chosen.merge is not None and chosen.merge not in list(Reduction):
        raise ConfigError(f"Unknown merge {chosen.merge!r}. Known: {', '.join(Reduction)}.")
    return method


def subject_of(prepared: Prepared, epochs: float, observer: Observer) -> Subject:
    """Returns what a method reads of a prepared network."""
    device = torch.device(prepared.device)
    data, split = prepared.problem.data, prepared.split
    return Subject(
        model=prepared.problem.model.to(device),
        network=prepared.network,
        space=prepared.space,
        calibration=prepared.calibration.to(device),
        rankings=prepared.rankings,
        profile=lambda: prepared.profile,
        images=data.train.take(split.calibration).to(device),
        data=data,
        calibration_indices=split.calibration,
        training=split.training,
        holdout=split.holdout,
        epochs=epochs,
        device=device,
        seed=derive_seed(prepared.options.seed, "method"),
        progress=observer.progress,
    )


def decide(name: str, method: Method, subject: Subject, observer: Observer) -> Decision:
    """Returns what a method decides.

    Raises:
        RunError: its structure is over the budget: a fault of the method, not of the user.
    """
    observer.stage(f"Choosing channels with {name}")
    started = time.perf_counter()
    pruned = method.prune(subject)
    seconds = time.perf_counter() - started
    if not method.as_published and not subject.space.is_legal(pruned.kept.structure):
        raise RunError(f"The method {name!r} returned widths outside the budget. Its `prune` must keep within it.")
    return Decision(pruned, seconds)


def reduction_of(chosen: MethodOptions, pruned: Pruned) -> Reduction:
    """Returns how the network is cut."""
    if chosen.merge is not None:
        return Reduction(chosen.merge)
    return default_reduction(pruned, as_published=chosen.as_published)


def cut_as_decided(finisher: Finisher, subject: Subject, pruned: Pruned, *, how: Reduction) -> nn.Module:
    """Returns the network that a method decided on, cut on the images of the end, in eval mode."""
    return finisher.cut(
        pruned.model,
        lambda images, calibration: reduced(subject, pruned, how, images=images, calibration=calibration),
    )


def evaluation_of(prepared: Prepared, decision: Decision, model: nn.Module, name: str) -> Evaluation:
    """Returns the cut network's accuracy on the hold-out, as that of a candidate.

    Where images are few, the network was reconstructed on the hold-out, too, without its labels: nothing is chosen by
    this figure, and the one of the test set is the one to quote.
    """
    kept: Kept = decision.pruned.kept
    split, structure = prepared.split, kept.structure
    scores = measure(
        model,
        prepared.problem.data.scoring,
        split.holdout,
        device=torch.device(prepared.device),
        task=prepared.problem.data.task,
    )
    fidelity = Fidelity(0, "final", Merge.SEQUENTIAL, len(split.calibration), len(split.holdout))
    cost = prepared.network.cost_model.cost(structure)
    candidate = Candidate(0, structure, cost, fidelity, prepared.options.seed, name)
    return Evaluation(candidate, scores.accuracy, scores.accuracy)
