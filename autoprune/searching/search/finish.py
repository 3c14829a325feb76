"""The end of a search: uniform and incumbent are rebuilt with more images, finetuned, tested once, and saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.candidate import Evaluation, Merge
from autoprune.core.cost import Cost
from autoprune.core.files import require_inside
from autoprune.core.seeds import derive_seed
from autoprune.core.space import SearchSpace
from autoprune.devices import in_smaller_batches, where_it_fits
from autoprune.errors import AutopruneError, one_line
from autoprune.models.cutting.surgery import Kept
from autoprune.models.network import TracedNetwork
from autoprune.models.reduction.calibration import ROWS, Calibration, calibrate, solvable
from autoprune.models.reduction.merging import cut_and_merge
from autoprune.models.reduction.selection import keep_best
from autoprune.models.storage.saved import SavedModel, describe_maps, kept_by_name, save_model
from autoprune.models.zoo.weights import sha256_of
from autoprune.report import formats
from autoprune.report.observer import Observer
from autoprune.searching.search.preparation import Prepared
from autoprune.training.checkpoints import Checkpointing
from autoprune.training.features import FeatureDistillation
from autoprune.training.measure import Scores, measure
from autoprune.training.recipe import Recipe, finetune_recipe
from autoprune.training.trainer import train

#: Calibration images of the final reconstruction, for 3x32x32 inputs; larger inputs get fewer, by their size.
FINAL_IMAGES = 4_096
#: Sampled rows a layer of the final reconstruction: twice those of a candidate's, while the dense values at them fit
#: into so many bytes (`experiments.benchmarks.zero_training` compares).
_FINAL_ROWS = 2 * ROWS
_FINAL_BYTES = 512 * 1024**2
_CIFAR_FLOATS = 3 * 32 * 32
#: Accuracy on training images that a finetune may cost: regularisation takes a little, this much only too few steps.
_LARGEST_LOSS = 0.05


@dataclass(frozen=True, eq=False)
class Finished:
    """A network at the end of the search.

    Attributes:
        evaluation: of the candidate.
        model: the network, finetuned if asked.
        kept: its channels.
        scores: on the test set.
        accuracy_before_finetune: on the test set, None without finetuning or where it was undone.
    """

    evaluation: Evaluation
    model: nn.Module
    kept: Kept
    scores: Scores
    accuracy_before_finetune: float | None

    @property
    def accuracy(self) -> float:
        """On the test set."""
        return self.scores.accuracy


class Finisher:
    """Rebuilds, finetunes and tests networks of one search, all in the same way."""

    def __init__(
        self, prepared: Prepared, observer: Observer, *, epochs: float, checkpoints: Path | None = None
    ) -> None:
        """Reads the dense network on the images of the end.

        Args:
            prepared: the search.
            observer: hears of stages and steps.
            epochs: of finetuning.
            checkpoints: folder in which finetunes are gone on with that were stopped; None to begin all anew.
        """
        self._prepared = prepared
        self._observer = observer
        self._epochs = epochs
        self._checkpoints = checkpoints
        self._images, self._calibration = self._final_calibration()

    @property
    def images(self) -> int:
        """How many images networks are reconstructed on."""
        return len(self._images)

    def finish(self, name: str, evaluation: Evaluation) -> Finished:
        """Returns the finished network of a candidate."""
        kept = keep_best(self._prepared.rankings, evaluation.candidate.structure.widths)
        return self.finetuned(name, self.reconstructed(name, kept), kept, evaluation)

    def reconstructed(self, name: str, kept: Kept) -> nn.Module:
        """Returns the dense network cut to `kept` and sequentially reconstructed, in eval mode."""
        self._observer.stage(f"Reconstructing {name} on {self.images} images")
        dense, network = self._prepared.problem.model, self._prepared.network
        return self.cut(
            dense,
            lambda images, calibration: cut_and_merge(
                dense, network, kept, merge=Merge.SEQUENTIAL, calibration=calibration, images=images
            ),
        )

    def cut(self, model: nn.Module, how: Callable[[torch.Tensor, Calibration], nn.Module]) -> nn.Module:
        """Returns what is made of a network on the images of the end.

        Args:
            model: lies where the images do while it is cut.
            how: called with (B, C, H, W) images and the statistics of the dense network on them; again, on the CPU,
                where the GPU's memory does not suffice.
        """
        return where_it_fits(
            model, self._images.device, lambda place: how(self._images.to(place), self._calibration.to(place))
        )

    def tested(self, model: nn.Module) -> Scores:
        """Returns the scores on the test set, which is read here and nowhere else, after everything is chosen."""
        data = self._prepared.problem.data
        return measure(model, data.test, device=torch.device(self._prepared.device), task=data.task)

    def finetuned(self, name: str, model: nn.Module, kept: Kept, evaluation: Evaluation) -> Finished:
        """Tests a cut network; finetunes it in place with distillation and tests it again where that was asked.

        A finetune that does harm on the images it has seen, as one of a few steps may, or that the network does not
        bear, is undone with a warning: nothing that was found is lost for it.
        Where the memory does not suffice it is trained in batches of half the size.
        """
        before = self.tested(model)
        if self._epochs == 0:
            return Finished(evaluation, model.cpu(), kept, before, None)
        self._observer.stage(f"Finetuning {name} for {formats.epochs(self._epochs)}")
        recipe = finetune_recipe(
            self._epochs,
            images=len(self._prepared.split.unreserved),
            batch_size=self._prepared.problem.data.task.batch_size,
            features=True,
        )
        untrained = {key: value.to("cpu", copy=True) for key, value in model.state_dict().items()}

        def training(parts: int) -> None:
            model.load_state_dict(untrained)
            place = self._place(kept, evaluation, parts)
            checkpoint = None if place is None else Checkpointing(place, dispensable=True)
            self._train(model, kept, recipe.in_parts(parts), checkpoint=checkpoint)

        known, harm = self._known(model), ""
        try:
            in_smaller_batches(self._prepared.device, training)
        except (AutopruneError, OSError):
            raise
        except Exception as error:  # a user's own forward may raise anything in training mode
            harm = f"Finetuning {name} failed and is undone: {one_line(error)}"
        else:
            lost = known - self._known(model)
            if lost > _LARGEST_LOSS:
                steps = recipe.steps(len(self._prepared.split.unreserved))
                harm = (
                    f"Finetuning took {100 * lost:.1f} points from {name} on images it was trained on and is undone: "
                    f"{steps} steps are too few. Give more --finetune-epochs."
                )
        if harm:
            self._observer.warning(harm)
            model.load_state_dict(untrained)
            return Finished(evaluation, model.cpu().eval(), kept, before, None)
        after = self.tested(model)
        return Finished(evaluation, model.cpu(), kept, after, before.accuracy)

    def _known(self, model: nn.Module) -> float:
        """Returns the accuracy on the calibration images: of training, not of test, for the finetune hangs on it."""
        data, split = self._prepared.problem.data, self._prepared.split
        device = torch.device(self._prepared.device)
        return measure(model, data.train, split.calibration, device=device, task=data.task).accuracy

    def _place(self, kept: Kept, evaluation: Evaluation, parts: int) -> Path | None:
        """Returns where the checkpoints of this finetune alone lie: those of another are of no use to it."""
        if self._checkpoints is None:
            return None
        chosen = json.dumps(kept_by_name(self._prepared.network, kept)).encode()
        told = f"{evaluation.candidate.id}-{self._epochs:g}-{parts}"
        place = self._checkpoints / f"{told}-{hashlib.sha256(chosen).hexdigest()[:12]}"
        require_inside(place, self._checkpoints)
        return place

    def _train(self, model: nn.Module, kept: Kept, recipe: Recipe, *, checkpoint: Checkpointing | None) -> None:
        prepared, data = self._prepared, self._prepared.problem.data
        train(
            model,
            data.train,
            # What was held out of them has done its work, too: nothing is chosen from here on.
            prepared.split.unreserved,
            recipe,
            seed=derive_seed(prepared.options.seed, "finetune"),
            teacher=prepared.problem.model,
            augmentation=data.augmentation,
            device=prepared.device,
            hooks=[FeatureDistillation.of(prepared.network, kept)],
            on_step=self._observer.progress,
            checkpoint=checkpoint,
            task=data.task,
        )

    def _final_calibration(self) -> tuple[torch.Tensor, Calibration]:
        prepared, split = self._prepared, self._prepared.split
        floats = int(torch.Size(prepared.problem.data.input_shape).numel())
        wanted = max(len(split.calibration), min(FINAL_IMAGES, FINAL_IMAGES * _CIFAR_FLOATS // floats))
        indices = split.unreserved[:wanted]
        self._observer.stage(f"Reading the dense network on {len(indices)} images")
        images, model = prepared.problem.data.train.take(indices), prepared.problem.model
        seed, rows = derive_seed(prepared.options.seed, "final calibration"), final_rows(prepared.network)

        def read(place: torch.device) -> tuple[torch.Tensor, Calibration]:
            there = images.to(place)
            return there, calibrate(model, prepared.network, there, seed=seed, rows=rows)

        return where_it_fits(model, prepared.device, read)


def final_rows(network: TracedNetwork) -> int:
    """Returns how many rows a layer the final reconstruction samples: fewer where wide layers would fill the memory."""
    channels = sum(len(network.channels[call.output].group) for call in network.calls if solvable(call))
    return min(_FINAL_ROWS, max(ROWS, _FINAL_BYTES // (max(channels, 1) * torch.float32.itemsize)))


def figures(scores: Scores) -> dict[str, Any]:
    """Returns what a summary says of tested networks: `accuracy`, and `metrics` where the task has more of them."""
    further = {name: value for name, value in scores.metrics.items() if name not in ("accuracy", "loss")}
    return {"accuracy": scores.accuracy, **({"metrics": further} if further else {})}


def describe(finished: Finished, prepared: Prepared) -> dict[str, Any]:
    """Returns the entry of a network in `summary.json`."""
    return {
        **describe_candidate(finished.evaluation, prepared),
        **figures(finished.scores),
        "accuracy_before_finetune": finished.accuracy_before_finetune,
    }


def describe_candidate(evaluation: Evaluation, prepared: Prepared) -> dict[str, Any]:
    """Returns the entry of a candidate that was not tested: its `accuracy` is null."""
    candidate = evaluation.candidate
    return {
        "accuracy": None,
        "accuracy_before_finetune": None,
        "holdout_accuracy": evaluation.accuracy,
        **cost_entry(candidate.cost),
        "widths": candidate.structure.by_group(prepared.network.groups),
        "proposed_by": candidate.proposed_by,
        "id": candidate.id,
    }


def cost_entry(cost: Cost) -> dict[str, int]:
    """Returns MACs, FLOPs, parameters and whatever else is known as a mapping, each in its smallest unit."""
    return {"macs": cost.macs, "flops": cost.flops, "params": cost.params, **cost.others}


def limits_of(space: SearchSpace, cost: Cost | None) -> list[dict[str, Any]]:
    """Returns the budgets in whole units for `summary.json`, and whether the cost of the network found holds them."""
    return [
        {
            "budget": limit.text,
            "resource": limit.resource,
            "least": limit.floor if limit.is_band else None,
            "most": limit.ceiling,
            "met": None if cost is None else limit.allows(cost),
        }
        for limit in space.limits
    ]


def save_finished(directory: Path, finished: Finished, prepared: Prepared, *, info: Mapping[str, Any]) -> None:
    """Writes a finished network where `autoprune.load` finds it."""
    problem, network = prepared.problem, prepared.network
    structure = finished.evaluation.candidate.structure
    weights = prepared.options.weights
    preprocessing = problem.data.preprocessing
    saved = SavedModel(
        model=problem.spec,
        classes=problem.classes,
        class_names=problem.data.classes,
        input_shape=tuple(problem.data.input_shape),
        preprocessing=None if preprocessing is None else preprocessing.to_dict(),
        widths=structure.by_group(network.groups),
        kept=kept_by_name(network, finished.kept),
        dense_widths={group.name: group.width for group in network.groups},
        maps=describe_maps(finished.model),
        dense={
            "weights": None if weights is None else weights.name,
            "sha256": None if weights is None else sha256_of(weights),
            "fingerprint": prepared.fingerprint,
            "data": problem.data.name,
            **({"task": prepared.options.task} if prepared.options.task else {}),
        },
        cost=cost_entry(finished.evaluation.candidate.cost),
        info=dict(info),
    )
    save_model(directory, finished.model, saved)
