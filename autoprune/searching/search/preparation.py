"""Everything a search needs before its first candidate: network, images, trace, statistics, space, ladder."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from autoprune.config.spaces import apply_rules, load_search_space
from autoprune.core.budget import parse_budgets
from autoprune.core.candidate import Ladder, Merge
from autoprune.core.forms import LargestForm
from autoprune.core.profile import ModelProfile
from autoprune.core.seeds import derive_seed
from autoprune.core.space import SearchSpace
from autoprune.data.bundle import DataBundle
from autoprune.data.splits import Split
from autoprune.devices import usable_device, where_it_fits
from autoprune.errors import StructureError
from autoprune.evaluation.evaluator import fidelity_for
from autoprune.evaluation.scoring import logits_of
from autoprune.evaluation.subject import SubjectFactory, holds_bytes, image_arrays, skeleton, weight_arrays
from autoprune.models.network import TracedNetwork
from autoprune.models.reduction.calibration import Calibration, calibrate
from autoprune.models.reduction.profiling import profile
from autoprune.models.reduction.selection import Ranking, rank_groups
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.depth import with_vanishing
from autoprune.models.verification.equivalence import restricted, verified
from autoprune.models.zoo.weights import state_fingerprint
from autoprune.report.observer import Observer
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import Problem, require_fit
from autoprune.searching.latency.budget import LatencyRecord, Setting
from autoprune.searching.latency.timing import torch_threads
from autoprune.searching.search.latency import with_latency
from autoprune.tracking.uris import mask_secrets

HOLDOUT_IMAGES = 4_000
#: Images and hold-out of the cheap first rung.
FIRST_RUNG = (256, 1_000)
#: The hold-out takes at most this share of the training images, of small sets half: fewer images rank nothing.
_LARGEST_SHARE, _SMALL_HOLDOUT = 0.25, 1_000
#: Numbers of an image below which a second thread waits more than it works. On a busy machine that takes six times as
#: long (8x8 digits).
_SMALL_IMAGE = 256
#: Images of the mean feature maps (ACP 2021 uses 200).
_MAP_IMAGES = 200

_Found = TypeVar("_Found")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A search that is ready to run.

    Attributes:
        problem: network and images.
        network: the trace, restricted to the scope.
        space: legal structures.
        split: of the images of `problem.data`.
        calibration: statistics of the dense network.
        rankings: per group.
        ladder: fidelities.
        device: where candidates are evaluated.
        options: as asked.
        latency: what was measured; None where no budget speaks of it.
    """

    problem: Problem
    network: TracedNetwork
    space: SearchSpace
    split: Split
    calibration: Calibration
    rankings: tuple[Ranking, ...]
    ladder: Ladder
    device: str
    options: SearchOptions
    latency: LatencyRecord | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Of the dense weights."""
        return state_fingerprint(self.problem.model)

    @cached_property
    def profile(self) -> ModelProfile:
        """What heuristics read."""
        images = self.problem.data.train.take(self.split.calibration[:_MAP_IMAGES])
        model = self.problem.model
        return where_it_fits(
            model,
            self.device,
            lambda place: profile(model, self.network, self.calibration, self.rankings, images.to(place)),
        )

    def factory(self, device: str | None = None) -> SubjectFactory:
        """Returns the factory of evaluators that compute on a device, by default the one of the search."""
        data, split, model = self.problem.data, self.split, self.problem.model
        holdout = image_arrays(data.scoring, split.holdout, "holdout")
        trains = any(rung.epochs > 0 for rung in self.ladder.rungs)
        in_memory = holds_bytes(data.train)
        arrays: dict[str, Any] = {
            **weight_arrays(model),
            **self.calibration.to_arrays(),
            **holdout,
            "calibration_images": data.train.take(split.calibration).numpy(),
            "dense_logits": self._dense_logits().numpy(),
        }
        if trains and in_memory:
            arrays.update(image_arrays(data.train, split.training, "training"))
        return SubjectFactory(
            arrays=arrays,
            skeleton=skeleton(model),
            network=self.network,
            rankings=self.rankings,
            preprocessing=data.preprocessing,
            lazy_training=data.train if trains and not in_memory else None,
            lazy_indices=split.training if trains and not in_memory else None,
            augmentation=data.augmentation,
            score=data.task.score,
            device=device or self.device,
            task=data.task,
        )

    def _dense_logits(self) -> Tensor:
        model, data = self.problem.model, self.problem.data
        return where_it_fits(
            model,
            self.device,
            lambda place: logits_of(model, data.scoring, self.split.holdout, place, task=data.task).cpu(),
        )

    def header(self) -> dict[str, Any]:
        """Returns what must match when the search is resumed."""
        options, split = self.options, self.split
        return {
            # Nothing that is written down holds a secret; a resumed search asks for the store again.
            "options": {**options.to_json(), "tracking_uri": mask_secrets(options.tracking_uri or "") or None},
            "objects": list(self.problem.objects),
            "model": self.problem.name,
            "weights": self.fingerprint,
            "data": self.problem.data.name,
            **({"images": dict(self.problem.digests)} if self.problem.digests else {}),
            "task": self.problem.data.task.name,
            "budget": list(options.goals),
            "scope": options.scope,
            "strategy": options.strategy,
            "candidates": options.candidates,
            "seed": options.seed,
            "split": [len(split.calibration), len(split.holdout), len(split.training)],
            **({"apart": True} if split.apart else {}),
            "groups": {group.name: [group.width, group.min_width, group.multiple_of] for group in self.network.groups},
            "ladder": [asdict(rung) for rung in self.ladder.rungs],
            **({} if self.latency is None else {"latency": self.latency.to_json()}),
        }


def prepare(
    problem: Problem,
    options: SearchOptions,
    observer: Observer,
    *,
    whole: TracedNetwork | None = None,
    recorded_latency: Any = None,
) -> Prepared:
    """Returns the search, ready to run.

    Args:
        problem: network and images.
        options: as asked.
        observer: hears of the stages.
        whole: what `traced` returned; None to trace the network.
        recorded_latency: what the ledger of the same search says of latency, which is then not measured again.

    Raises:
        BudgetError: the budget cannot be reached.
        DataError: there are too few images.
        StructureError: nothing can be pruned in this scope.
        ModelError: the network does not fit the images or cannot be traced.
        ConfigError: the device is not there.
    """
    device = usable_device(options.device)
    threads = options.latency_threads or torch.get_num_threads()
    record: LatencyRecord | None = None
    with torch_threads(useful_threads(problem.data.input_shape)):
        require_fit(problem)
        whole = traced(problem, options, observer) if whole is None else whole
        network = in_scope(whole, problem, options, observer)
        _require_groups(network, problem, options, wider=bool(whole.groups))
        budgets = parse_budgets(options.goals)
        if recorded_latency is not None or any(budget.resource == "latency" for budget in budgets):
            network, record = with_latency(
                problem.model,
                network,
                options,
                setting=Setting.here(device, threads=threads, batch=options.latency_batch),
                recorded=recorded_latency,
                observer=observer,
            )
        space = SearchSpace.build(network.groups, network.cost_model, budgets)
        split = _split(problem.data, options)
        observer.stage(f"Reading the dense network on {len(split.calibration)} images")
        images = problem.data.train.take(split.calibration)
        calibration, rankings = where_it_fits(
            problem.model, device, lambda place: _statistics(problem.model, network, images, options, place)
        )
    ladder = default_ladder(len(split.calibration), len(split.holdout))
    return Prepared(problem, network, space, split, calibration, rankings, ladder, device, options, record)


def _statistics(
    model: nn.Module, network: TracedNetwork, images: Tensor, options: SearchOptions, device: torch.device
) -> tuple[Calibration, tuple[Ranking, ...]]:
    """Returns what is known of the dense network, which lies on the device, on the CPU."""
    images = images.to(device)
    calibration = calibrate(model, network, images, seed=derive_seed(options.seed, "calibration"))
    rankings = rank_groups(model, network, calibration, images=images if options.channels == "elimination" else None)
    return calibration.to("cpu"), rankings


def default_ladder(calibration: int, holdout: int) -> Ladder:
    """Returns the fidelities of a search: least squares first, then sequential reconstruction."""
    first = fidelity_for(
        Merge.LEAST_SQUARES, level=0, calibration=min(FIRST_RUNG[0], calibration), holdout=min(FIRST_RUNG[1], holdout)
    )
    return Ladder((first, fidelity_for(Merge.SEQUENTIAL, level=1, calibration=calibration, holdout=holdout)), keep=2.0)


def traced(problem: Problem, options: SearchOptions, observer: Observer) -> TracedNetwork:
    """Returns the verified trace with the groups of every scope, within the rules of the search space; perhaps none.

    Raises:
        ModelError: the network cannot be traced.
        ConfigError: the search space does not fit the network.
    """
    observer.stage(f"Tracing {problem.name}")
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, *problem.data.input_shape, generator=generator)
    network = verified(problem.model, trace(problem.model, example))
    if options.search_space is not None:
        # Before the scope takes groups away: a rule for them is no mistake.
        network = replace(network, groups=apply_rules(network.groups, load_search_space(options.search_space)))
    return network


def in_scope(network: TracedNetwork, problem: Problem, options: SearchOptions, observer: Observer) -> TracedNetwork:
    """Returns what `traced` returned with the groups of the scope alone, those that may vanish proved."""
    names = {group.name for group in network.groups if options.scope == "coupled" or not group.coupled}
    network, refused = with_vanishing(problem.model, restricted(network, names))
    if refused:
        name, reason = next(iter(refused.items()))
        observer.warning(f"{len(refused)} groups cannot vanish and keep a channel, such as {name!r}: {reason}.")
    return _for_batch(network, options.latency_batch)


def _for_batch(network: TracedNetwork, batch: int) -> TracedNetwork:
    """Returns the network with the peak of its activations for so many images at a time."""
    peak = network.cost_model.others.get("peak")
    if batch == 1 or not isinstance(peak, LargestForm):
        return network
    return replace(network, cost_model=network.cost_model.with_form("peak", peak.times(batch)))


def _require_groups(network: TracedNetwork, problem: Problem, options: SearchOptions, *, wider: bool) -> None:
    """Refuses a network without a group in the scope; `wider` says whether there is one beyond."""
    if network.groups:
        return
    reasons = "; ".join(f"{layer}: {reason}" for layer, reason in list(network.frozen.items())[:3])
    hint = " Try --scope coupled." if wider else ""
    raise StructureError(f"{problem.name} has no prunable group in the scope {options.scope!r} ({reasons}).{hint}")


def _split(data: DataBundle, options: SearchOptions) -> Split:
    available = len(data.train)
    if data.validation is None:
        share = max(1, int(available * _LARGEST_SHARE), min(_SMALL_HOLDOUT, available // 2))
        holdout = options.holdout_images or min(HOLDOUT_IMAGES, share)
        available = max(1, available - holdout)
    else:
        holdout = options.holdout_images or min(HOLDOUT_IMAGES, len(data.validation))
    calibration = options.calibration_images or min(data.task.calibration_images, available)
    return data.split(holdout=holdout, calibration=calibration, seed=derive_seed(options.seed, "split"))


def useful_threads(shape: Sequence[int]) -> int:
    """Returns how many threads compute on (C, H, W) images: one where they are so small that others only wait."""
    return 1 if math.prod(shape) <= _SMALL_IMAGE else usable_cores()


def usable_cores() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
