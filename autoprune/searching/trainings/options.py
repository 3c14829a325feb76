"""What trainings are asked to do, and what of it their record tells. Light: it imports nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from autoprune.config.layout import TRAINING
from autoprune.errors import RunError

#: What a training may be asked to compute in: 16 bits where they are faster, or 32 throughout.
PRECISIONS = ("auto", "float32")

_Options = TypeVar("_Options", bound="RunOptions")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every training is told, whatever it trains.

    Attributes:
        epochs: passes over the training images.
        out: its folder.
        data: name of the data; None for those the network is meant for.
        data_root: folder of the data.
        task: what the network does; None for what the data are for.
        learning_rate: at its peak; None for the default of the recipe, like all that may be None below.
        batch_size: images per step.
        weight_decay: on weights of convolutions and linear layers.
        warmup_epochs: linear rise of the learning rate.
        label_smoothing: in [0, 1).
        precision: one of `PRECISIONS`.
        holdout_images: of the training images.
        seed: of everything random.
        checkpoint_steps: a checkpoint after every so many steps as well; None for epochs alone.
        device: where to compute; None for a GPU if there is one.
        tracking_uri: of the MLflow store; None for SQLite beside the folder.
        no_mlflow: whether to do without MLflow.
        workers: processes that share every batch.
        ray_address: of the cluster where they run; None for this machine.
    """

    epochs: float
    out: Path
    data: str | None = None
    data_root: Path | None = None
    task: str | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    label_smoothing: float | None = None
    precision: str = "auto"
    holdout_images: int | None = None
    seed: int = 0
    checkpoint_steps: int | None = None
    device: str | None = None
    tracking_uri: str | None = None
    no_mlflow: bool = False
    workers: int = 1
    ray_address: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the options as JSON values; paths are absolute, for a training may be resumed from elsewhere."""
        values = asdict(self)
        return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """Options of `autoprune train`, besides those of every training.

    Attributes:
        model: name of the network.
        weights: whence it starts; None for random weights.
        regulariser: a name of `autoprune.methods.regularisers`, None for none.
        regulariser_strength: its weight in the loss; None for its own default.
        teacher: whose logits are distilled: a weights file, or the folder of a saved network.
        teacher_model: whose weights those in the file are; None for those of `model`.
    """

    model: str
    weights: Path | None = None
    regulariser: str | None = None
    regulariser_strength: float | None = None
    teacher: Path | None = None
    teacher_model: str | None = None


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RunOptions):
    """Options of `autoprune finetune`, besides those of every training.

    Attributes:
        source: folder of the saved network.
        weights: of the dense network that teaches; None to look for those it was cut from.
        teacher: who teaches in place of the dense network: a weights file, or the folder of a saved network.
        teacher_model: whose weights those in the file are; None for those of the network that was cut.
        no_distillation: whether to train on the labels alone.
    """

    source: Path
    weights: Path | None = None
    teacher: Path | None = None
    teacher_model: str | None = None
    no_distillation: bool = False


def options_from(kind: type[_Options], values: Mapping[str, Any], *, out: Path) -> _Options:
    """Returns the options that `to_json` described, in a folder that may have been moved; unknown keys are ignored.

    Raises:
        RunError: one is missing.
    """
    paths = {field.name for field in fields(kind) if "Path" in str(field.type)}
    known = {field.name for field in fields(kind)}
    read: dict[str, Any] = {
        name: Path(value) if name in paths and value is not None else value
        for name, value in values.items()
        if name in known
    }
    try:
        return kind(**{**read, "out": out})
    except TypeError as error:
        raise RunError(f"{out / TRAINING} lacks an option ({error}). Start the training anew.") from error
