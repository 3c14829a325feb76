"""Which networks can be pruned? Every model of a family through the whole way, from its trace to a fresh process.

Each network gets random weights, is traced, cut to a random structure at half its FLOPs, run, compared with the dense
one in which the removed channels are zero, counted, saved, and loaded and run in another process. What cannot be cut is
frozen and named; what goes wrong is a line of the table.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.budget import parse_budgets
from autoprune.core.cost import Cost
from autoprune.core.seeds import derive_seed
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.devices import is_out_of_memory
from autoprune.errors import AutopruneError, BudgetError, ConfigError, nearest, one_line
from autoprune.models.costing.counting import count, count_on
from autoprune.models.cutting.surgery import Kept, cut, random_kept
from autoprune.models.modules.randomising import FittedNorms, randomise
from autoprune.models.network import TracedNetwork
from autoprune.models.storage.saved import SavedModel, describe_maps, kept_by_name, save_model
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import (
    TOLERANCE,
    cost_after,
    largest_deviation,
    mask,
    outputs,
    random_structure,
    seen,
    verified,
)
from autoprune.models.zoo.catalogue import build_model, model_info, names_of
from autoprune.searching.coverage.reloading import Reloader, keep_example
from autoprune.searching.search.finish import cost_entry

FAMILIES = ("torchvision", "segmentation", "detection", "timm")
PASSED = "pass"
BUDGET = "50%flops"

#: Side of the images that outputs are compared on, where a network takes them; costs are those of its own size.
_SIDE = 96
#: A check proves something if masking moves the outputs by more than this share of the largest.
_SMALLEST_EFFECT = 1e-3
#: Networks with more parameters are compared in float32, for their weights alone would take gigabytes in float64.
_DOUBLED = 350_000_000
_SINGLE_TOLERANCE = 1e-3
#: Largest deviation of a loaded network: the same operations on the same numbers.
_RELOADED = 1e-5
#: Input of networks that take any: of those of which nothing is known, and of those that are meant for larger images.
_SHAPE = (3, 224, 224)
#: What detectors are reduced to: the shorter side of their images, and how many regions they look into.
_DETECTOR_SIDE, _REGIONS, _DETECTIONS = 224, 50, 5


@dataclass(frozen=True)
class Coverage:
    """What became of one network.

    Attributes:
        model: its name.
        outcome: `pass`, or the reason why not.
        groups: number of prunable groups.
        macs: of the dense network, for one image of `input_shape`.
        params: of the dense network.
        reachable: share of the MACs that the space can remove.
        half: whether half the FLOPs can be reached.
        retained: share of the MACs that the random structure kept.
        deviation: largest difference between cut and masked network, relative to the largest output.
        effect: how far masking moved the outputs, likewise.
        input_shape: of the image that the network was traced and counted on.
        compared_on: of the images that outputs were compared on.
        precision: in which they were compared.
        frozen: what is never cut: a reason, how many layers, and the first of them.
        seconds: all of it.
    """

    model: str
    outcome: str
    groups: int = 0
    macs: int = 0
    params: int = 0
    reachable: float = 0.0
    half: bool = False
    retained: float | None = None
    deviation: float | None = None
    effect: float | None = None
    input_shape: tuple[int, ...] = ()
    compared_on: tuple[int, ...] = ()
    precision: str = ""
    frozen: tuple[dict[str, Any], ...] = ()
    seconds: float = 0.0


def models_of(family: str) -> tuple[str, ...]:
    """Returns the names of all networks of a family.

    Raises:
        ConfigError: the family is unknown, or its package is missing.
    """
    if family not in FAMILIES:
        raise ConfigError(f"Unknown family {family!r}.{nearest(family, FAMILIES)}")
    return names_of(family)


def cover(models: Sequence[str], *, seed: int = 0, tell: Callable[[Coverage], None]) -> list[Coverage]:
    """Returns what became of each network, in order; tells of each as soon as it is known.

    Args:
        models: names as `build_model` takes them.
        seed: of weights, structures and images.
        tell: is called with every result.
    """
    reloader = Reloader()
    results = []
    try:
        for spec in models:
            results.append(_covered(spec, seed=seed, reloader=reloader))
            tell(results[-1])
    finally:
        reloader.close()
    return results


def as_entry(result: Coverage) -> dict[str, Any]:
    """Returns a result as a line of a results file."""
    entry = asdict(result)
    for name, digits in (("reachable", 4), ("retained", 4), ("seconds", 1)):
        entry[name] = None if entry[name] is None else round(entry[name], digits)
    for name in ("deviation", "effect"):
        entry[name] = None if entry[name] is None else float(f"{entry[name]:.1e}")
    return entry


def reduce_detector(model: nn.Module) -> None:
    """Makes a detector's images small and its regions few, and lets it report boxes of any score; others stay."""
    transform, regions, boxes = (getattr(model, name, None) for name in ("transform", "rpn", "roi_heads"))
    if transform is not None and getattr(transform, "fixed_size", True) is None:
        transform.min_size, transform.max_size = (_DETECTOR_SIDE,), 2 * _DETECTOR_SIDE
    if regions is not None and boxes is not None:
        regions._post_nms_top_n = {"training": _REGIONS, "testing": _REGIONS}
        boxes.score_thresh, boxes.detections_per_img = 0.0, _DETECTIONS


def _covered(spec: str, *, seed: int, reloader: Reloader) -> Coverage:
    """Returns what became of one network; nothing that it raises goes any further."""
    start = time.perf_counter()
    trial = _Trial(spec, derive_seed(seed, spec), reloader)
    try:
        outcome = trial.run()
    except Exception as error:  # also those of a user's own factory
        outcome = _failure(error)
    gc.collect()
    return Coverage(model=spec, outcome=outcome, seconds=time.perf_counter() - start, **trial.known)


def _failure(error: Exception) -> str:
    if isinstance(error, AutopruneError):
        return str(error)
    if is_out_of_memory(error):
        return "too big for the memory of this machine"
    return one_line(error)


class _Trial:
    """One network on its way; `known` is what is known of it so far, so that a failure keeps it."""

    def __init__(self, spec: str, seed: int, reloader: Reloader) -> None:
        self.known: dict[str, Any] = {}
        self._spec, self._seed, self._reloader = spec, seed, reloader

    def run(self) -> str:
        """Returns `pass`, or why not."""
        model = self._build()
        detector = isinstance(getattr(model, "transform", None), nn.Module)
        free = detector and getattr(model.transform, "fixed_size", None) is None
        free = free or self._spec in names_of("segmentation")
        shape = _SHAPE if free else model_info(self._spec).input_shape or _SHAPE
        generator = torch.Generator().manual_seed(self._seed)
        images = _images(model, shape, generator, smaller=not detector)
        network = trace(model, torch.rand(1, *shape, generator=generator))
        outcome = self._attempt(model, network, images)
        if outcome == PASSED or not network.groups or network.cost_model.dense.params > _DOUBLED:
            return outcome
        # As a search would: what cannot be proved is frozen, and the rest must pass.
        model = self._build()
        fewer = verified(model, network)
        return outcome if fewer.groups == network.groups else self._attempt(model, fewer, images)

    def _attempt(self, model: nn.Module, network: TracedNetwork, images: Tensor) -> str:
        """Returns what `_prove` says, or what it raised."""
        try:
            return self._prove(model, network, images)
        except Exception as error:
            return _failure(error)

    def _build(self) -> nn.Module:
        model = build_model(self._spec)
        randomise(model, seed=self._seed)
        reduce_detector(model)
        return model

    def _prove(self, model: nn.Module, network: TracedNetwork, images: Tensor) -> str:
        """Returns `pass` if a random cut is right in every respect, else in which it is not. Spoils `model`."""
        dense = network.cost_model.dense
        self.known.update(
            groups=len(network.groups),
            macs=dense.macs,
            params=dense.params,
            input_shape=network.input_shape,
            frozen=_reasons(network),
        )
        if not network.groups:
            return "nothing can be cut"
        rng = np.random.default_rng(self._seed)
        half, structure = _structure(network, rng)
        kept, cost = random_kept(network, structure, rng), network.cost_model.cost(structure)
        smallest = network.cost_model.cost(Structure((1,) * len(network.groups)))
        self.known.update(half=half, reachable=1 - smallest.macs / dense.macs, retained=cost.macs / dense.macs)
        with tempfile.TemporaryDirectory() as folder:
            # The smaller network is saved before outputs are compared, and loaded after: both take much memory.
            counted = self._save(Path(folder), model, network, kept, images)
            if counted != cost and not network.picks_by_value:
                return f"costs {counted}, not the computed {cost}"
            outcome = self._compare(model, network, kept, images)
            if outcome != PASSED:
                return outcome
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = torch.empty(0)
            gc.collect()
            deviation = self._reloader.deviation(Path(folder))
        return PASSED if deviation <= _RELOADED else f"says something else once loaded ({deviation:.1e})"

    def _save(self, directory: Path, model: nn.Module, network: TracedNetwork, kept: Kept, images: Tensor) -> Cost:
        """Saves the cut network and what it says; returns its cost, counted on an image of its own size."""
        small = cut(model, network, kept)
        saved = SavedModel(
            model=self._spec,
            classes=None,
            class_names=(),
            input_shape=network.input_shape,
            preprocessing=None,
            widths=kept.structure.by_group(network.groups),
            kept=kept_by_name(network, kept),
            dense_widths={group.name: group.width for group in network.groups},
            maps=describe_maps(small),
            dense={},
            cost=cost_entry(network.cost_model.cost(kept.structure)),
            info={},
        )
        save_model(directory, small, saved)
        with torch.no_grad():
            keep_example(directory, images, outputs(small, images))
        return count(small, (1, *network.input_shape))

    def _compare(self, model: nn.Module, network: TracedNetwork, kept: Kept, images: Tensor) -> str:
        """Returns `pass` if the cut network is the dense one with its removed channels zero. Spoils `model`."""
        double = network.cost_model.dense.params <= _DOUBLED
        if double:
            model, images = model.double(), images.double()
        small = cut(model, network, kept)
        with torch.no_grad():
            before = outputs(model, images)
        mask(model, network, kept)
        expected, found = seen(model, network, images), seen(small, network, images)
        deviation = largest_deviation(expected, found)
        effect = largest_deviation(expected[: len(before)], before)
        self.known.update(
            deviation=deviation,
            effect=min(effect, 1.0),
            compared_on=tuple(images.shape[1:]),
            precision="float64" if double else "float32",
        )
        if not deviation <= (TOLERANCE if double else _SINGLE_TOLERANCE):
            return f"the cut network differs from the masked dense one by {deviation:.1e}"
        if not effect > _SMALLEST_EFFECT:
            return f"nothing is proved: masking moves the outputs by {effect:.1e} only"
        if network.picks_by_value:
            counted, computed = count_on(small, images)[0], cost_after(network, kept, count_on(model, images)[1])
            if counted != computed:
                return f"costs {counted}, not the computed {computed}"
        return PASSED


def _images(model: nn.Module, shape: tuple[int, ...], generator: torch.Generator, *, smaller: bool) -> Tensor:
    """Returns two images, small ones where the network takes them, after fitting its batch norms to them."""
    if smaller and min(shape[1:]) > _SIDE:
        try:
            return _fitted(model, (shape[0], _SIDE, _SIDE), generator)
        except Exception:  # it wants its own size, and says so in whatever way it was written to
            pass
    return _fitted(model, shape, generator)


def _fitted(model: nn.Module, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    images = torch.rand(2, *shape, generator=generator)
    with torch.no_grad(), FittedNorms(model):
        outputs(model, images)
    return images


def _structure(network: TracedNetwork, rng: np.random.Generator) -> tuple[bool, Structure]:
    """Returns whether half the FLOPs can be reached, and a random structure there, or else anywhere.

    Every group loses a channel at least: one that stays whole would hide that it cannot be cut.
    """
    try:
        space = SearchSpace.build(network.groups, network.cost_model, parse_budgets(BUDGET))
        half, drawn = True, space.sample(1, rng)[0]
    except BudgetError:
        half, drawn = False, random_structure(network, rng)
    narrower = (min(width, max(1, group.width - 1)) for width, group in zip(drawn.widths, network.groups, strict=True))
    return half, Structure(tuple(narrower))


def _reasons(network: TracedNetwork) -> tuple[dict[str, Any], ...]:
    """Returns every reason for which layers are frozen, with their number and the first of them."""
    found: dict[str, list[str]] = {}
    for layer, reason in network.frozen.items():
        # Reasons that name a layer differ from layer to layer, and say the same.
        said = reason.replace(f"{layer}.weight", "its weight")
        found.setdefault(said, []).append(layer)
    return tuple({"reason": reason, "layers": len(layers), "first": layers[0]} for reason, layers in found.items())
