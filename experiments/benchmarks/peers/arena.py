"""Where methods meet: one trained network with the images of one seed, prepared once, and how widths are judged."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.backends.evaluating import evaluate
from autoprune.config.options import DATA_ROOT_VARIABLE, WEIGHTS_ROOT_VARIABLE
from autoprune.core.budget import parse_budgets
from autoprune.core.candidate import Candidate, Evaluation, Failure, Merge
from autoprune.core.files import write_whole
from autoprune.core.seams import frozen_arrays
from autoprune.core.seeds import derive_seed
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure, structure_from
from autoprune.data.sources import load_data
from autoprune.errors import RunError, WeightsError
from autoprune.evaluation.evaluator import fidelity_for
from autoprune.models.costing.counting import count
from autoprune.models.network import Role
from autoprune.models.reduction.merging import recalibrate
from autoprune.models.zoo.catalogue import build_model
from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import Problem, load_problem
from autoprune.searching.search.preparation import Prepared, prepare
from autoprune.training.recipe import Recipe, finetune_recipe
from autoprune.training.trainer import train
from experiments.benchmarks.peers.plan import Network

#: How the small networks are trained that nobody has weights of.
_RATE, _BATCH, _WARMUP, _SMOOTHING = 0.1, 64, 1.0, 0.05


@dataclass(frozen=True)
class Step:
    """What a method would have handed over after so much work.

    Attributes:
        scorings: passes over the images that score, so far.
        seconds: of the processor, so far.
        structure: over the groups of `Arena.whole`.
    """

    scorings: int
    seconds: float
    structure: Structure


@dataclass(frozen=True)
class Run:
    """What a method did.

    Attributes:
        steps: one for every structure that it preferred to all before; empty if none can be expressed in groups.
        scorings: in all.
        seconds: in all, of the processor.
        own: the network as the method cut it; None where it only chose widths.
        facts: worth recording.
    """

    steps: tuple[Step, ...]
    scorings: int
    seconds: float
    own: nn.Module | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


class Clock:
    """Seconds of the processor since it was made, plus those spent before.

    Other programs on the machine slow a wall clock down; the benchmark runs on one thread.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.process_time() - before

    @property
    def seconds(self) -> float:
        """So far."""
        return time.process_time() - self._start


class Arena:
    """One network and the images of one seed.

    Attributes:
        network: from the plan.
        seed: of the split and of everything random.
        inner: prepared with the channels inside blocks: what autoprune searches by default.
        whole: prepared with residual streams, too: what a peer may cut.
        seconds: of the processor that the preparation of `inner` took, which searches of ours are charged with.
    """

    def __init__(self, network: Network, seed: int, *, folder: Path) -> None:
        """Loads (or trains, keeping the weights in `folder`) and prepares the network.

        Raises:
            AutopruneError: network, weights or data cannot be had.
        """
        self.network, self.seed = network, seed
        options = SearchOptions(
            model=network.model,
            data=network.data,
            data_root=Path(os.environ[DATA_ROOT_VARIABLE]) if DATA_ROOT_VARIABLE in os.environ else None,
            weights=_weights(network, folder),
            budgets=network.budgets[:1],
            backend="serial",
            seed=seed,
            calibration_images=network.calibration,
            holdout_images=network.holdout,
            device="cpu",
            no_mlflow=True,
        )
        self._observer = NullObserver()
        self.problem: Problem = load_problem(options, self._observer)
        clock = Clock()
        self.inner: Prepared = prepare(self.problem, options, self._observer)
        self.seconds = clock.seconds
        self.whole: Prepared = prepare(self.problem, replace(options, scope="coupled"), self._observer)
        self._factory = self.whole.factory()
        self._evaluator = self._factory.build(frozen_arrays(self._factory.arrays), worker="benchmark")
        split, data = self.whole.split, self.problem.data
        self.calibration = data.train.take(split.calibration)
        labels = np.asarray(data.scoring.labels)[split.holdout]
        self._holdout = (data.scoring.take(split.holdout), torch.from_numpy(labels))
        self._scores: dict[tuple[Structure, Merge], Evaluation] = {}

    @property
    def dense(self) -> nn.Module:
        """The trained network; not to be changed."""
        return self.problem.model

    @property
    def example(self) -> Tensor:
        """(1, C, H, W) an image to trace with."""
        return self.calibration[:1]

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns (count, C, H, W) training images that do not score, and their labels."""
        chosen = self.whole.split.training[:count]
        return self.problem.data.train.take(chosen), torch.from_numpy(
            np.asarray(self.problem.data.train.labels)[chosen]
        )

    def ceiling(self, budget: str) -> int:
        """Returns the most multiply-accumulates that a budget allows."""
        return parse_budgets([budget])[0].resolve(self.whole.network.cost_model.dense).ceiling

    def prepared(self, budget: str, **options: object) -> Prepared:
        """Returns `inner` for a budget, its statistics of heuristics not gathered yet."""
        network = self.inner.network
        space = SearchSpace.build(network.groups, network.cost_model, parse_budgets([budget]))
        changed = replace(self.inner.options, budgets=(budget,), **options)
        return replace(self.inner, space=space, options=changed)

    def macs(self, structure: Structure) -> int:
        """Returns the exact multiply-accumulates of a structure of `whole`."""
        return self.whole.network.cost_model.cost(structure).macs

    def widened(self, structure: Structure) -> Structure:
        """Returns a structure of `inner` as one of `whole`, the streams at their dense widths."""
        return structure_from(structure.by_group(self.inner.network.groups), self.whole.network.groups)

    def inner_layers(self) -> set[str]:
        """Returns the layers whose channels lie inside blocks."""
        network = self.inner.network
        return {layer for index in range(len(network.groups)) for layer in network.layers_of(index, Role.PRODUCES)}

    def widths_of(self, model: nn.Module, *, counted: bool = True) -> Structure | None:
        """Returns the widths of a peer's network; None where our groups cannot express what it cut.

        Args:
            model: of the dense network's layers, narrower.
            counted: whether to check that the widths cost what a count on the network says.
        """
        network, widths = self.whole.network, {}
        for index, group in enumerate(network.groups):
            names = network.layers_of(index, Role.PRODUCES)
            found, dense = ([_outputs(network_of, name) for name in names] for network_of in (model, self.dense))
            if found == dense:
                # Layers of option-A shortcuts hold more than this group: as they were, it is.
                widths[group.name] = group.width
            elif len({*found}) == 1 and {*dense} == {group.width} and 1 <= found[0] <= group.width:
                widths[group.name] = found[0]
            else:
                return None
        structure = structure_from(widths, network.groups)
        return structure if not counted or self.count(model) == self.macs(structure) else None

    def count(self, model: nn.Module) -> int:
        """Returns the multiply-accumulates of one image, counted on the network."""
        return count(model.eval(), tuple(self.example.shape)).macs

    def score(self, structure: Structure, merge: Merge) -> Evaluation:
        """Returns what the images that score say of widths of `whole`, cut in one of our ways; known ones cost nothing.

        Raises:
            RunError: the network cannot be cut or scored.
        """
        known = self._scores.get((structure, merge))
        if known is None:
            split = self.whole.split
            rung = fidelity_for(merge, level=0, calibration=len(split.calibration), holdout=len(split.holdout))
            cost = self.whole.network.cost_model.cost(structure)
            candidate = Candidate(0, structure, cost, rung, self.seed, "benchmark")
            outcome = evaluate(self._evaluator, candidate, worker="main").outcome
            if isinstance(outcome, Failure):
                raise RunError(f"The widths {structure.widths} cannot be scored: {outcome.reason}.")
            known = self._scores[structure, merge] = outcome
        return known

    def cut(self, structure: Structure, merge: Merge) -> nn.Module:
        """Returns the network of widths, cut in one of our ways."""
        rung = self.score(structure, merge).candidate.fidelity
        return self._evaluator.build(structure, rung, seed=self.seed)[0]

    def settled(self, model: nn.Module) -> nn.Module:
        """Returns a peer's network with batch norms recalibrated on the images that everybody has."""
        return recalibrate(model, self.calibration)

    @torch.no_grad()
    def goodness(self, model: nn.Module) -> float:
        """Returns the mean probability of the label on the images that score: the score of all searches here."""
        images, labels = self._holdout
        logits = torch.cat([model(block) for block in images.split(500)])
        return float(logits.double().softmax(1).gather(1, labels[:, None]).mean())

    @cached_property
    def dense_hits(self) -> npt.NDArray[np.bool_]:
        """(n,) which test images the dense network gets right."""
        return self.tested(self.dense)

    @torch.no_grad()
    def tested(self, model: nn.Module) -> npt.NDArray[np.bool_]:
        """Returns (n,) which test images a network gets right; the test set is read here alone."""
        test = self.problem.data.test
        chosen = np.arange(min(self.network.test or len(test), len(test)))
        labels = torch.from_numpy(np.asarray(test.labels)[chosen])
        model.eval()
        found = [model(test.take(block)).argmax(1) for block in np.array_split(chosen, max(1, len(chosen) // 500))]
        hits: npt.NDArray[np.bool_] = (torch.cat(found) == labels).numpy()
        return hits

    def finetuned(self, model: nn.Module) -> nn.Module:
        """Returns a finetuned copy: the same images, order and teacher for everybody."""
        tuned = copy.deepcopy(model)
        for parameter in tuned.parameters():
            parameter.requires_grad_(True)
        data, training = self.problem.data, self.whole.split.training
        train(
            tuned,
            data.train,
            training,
            finetune_recipe(self.network.finetune_epochs, images=len(training)),
            seed=derive_seed(self.seed, "finetune"),
            teacher=self.dense,
            augmentation=data.augmentation,
        )
        return tuned


def _outputs(model: nn.Module, layer: str) -> int:
    module = model.get_submodule(layer)
    return int(getattr(module, "out_channels", getattr(module, "out_features", 0)))


def _weights(network: Network, folder: Path) -> Path | None:
    """Returns the file of the trained weights; None for the embedded default.

    Raises:
        WeightsError: the named file is not there.
    """
    if network.weights:
        path = Path(os.environ.get(WEIGHTS_ROOT_VARIABLE, ".")) / network.weights
        if not path.is_file():
            raise WeightsError(f"The weights {str(path)!r} are missing. Set {WEIGHTS_ROOT_VARIABLE}.")
        return path
    if network.train_epochs == 0:
        return None
    path = folder / "weights" / f"{network.name.replace('/', '-')}.safetensors"
    if not path.is_file():
        from safetensors.torch import save

        torch.manual_seed(0)
        model, data = build_model(network.model), load_data(network.data)
        recipe = Recipe(
            network.train_epochs, _RATE, batch_size=_BATCH, warmup_epochs=_WARMUP, label_smoothing=_SMOOTHING
        )
        train(model, data.train, range(len(data.train)), recipe, seed=0, augmentation=data.augmentation)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
        write_whole(path, lambda place: place.write_bytes(content))
    return path
