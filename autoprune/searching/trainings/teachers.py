"""Teachers that a training is told of: the same network with other weights, or another network altogether."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from autoprune.config.layout import saved_folder
from autoprune.data.bundle import DataBundle
from autoprune.data.preprocessing import Preprocessing
from autoprune.errors import ConfigError
from autoprune.models.storage.saved import load, read_saved
from autoprune.models.zoo.catalogue import build_model, model_info
from autoprune.searching.inputs.problems import Problem, require_fit


class Renormalised(nn.Module):
    """A network that reads images which were normalised for another: (pixel - mean) / std is affine in the other's.

    Args:
        network: (B, C, H, W) normalised by `own` -> whatever it answers.
        given: how the images are normalised that it will be given.
        own: how it was trained.

    Raises:
        ConfigError: the two are of images with different numbers of channels.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: nn.Module, *, given: Preprocessing, own: Preprocessing) -> None:
        super().__init__()
        if given.channels != own.channels:
            raise ConfigError(
                f"The teacher reads images of {own.channels} channels, and those to train on have {given.channels}. "
                "Name another --teacher."
            )
        self.network = network
        mean, std, own_mean, own_std = (
            torch.tensor(values).view(-1, 1, 1) for values in (given.mean, given.std, own.mean, own.std)
        )
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)

    def forward(self, images: torch.Tensor) -> object:
        """Returns what the network answers to images (B, C, H, W) as they are given."""
        return self.network(images * self.scale + self.shift)


def named_teacher(place: Path, *, model: str | None, data: DataBundle) -> nn.Module:
    """Returns the teacher that `--teacher` and `--teacher-model` name, reading images as `data` normalises them.

    Args:
        place: a weights file, or the folder of a saved network.
        model: whose weights those in the file are; a folder says that itself.
        data: what it is to teach on.

    Raises:
        ConfigError: a weights file of a network without a name.
        AutopruneError: the network cannot be had, or does not fit the images.
    """
    # A factory decides on its classes itself.
    classes = None if model is None or ":" in model else len(data.classes)
    if place.is_dir():
        folder = saved_folder(place)
        recorded = read_saved(folder).preprocessing
        teacher, own = load(folder), None if recorded is None else Preprocessing.from_dict(recorded)
    elif model is None:
        raise ConfigError(f"Of which network are the weights {str(place)!r}? Name it with --teacher-model.")
    else:
        teacher, own = build_model(model, classes=classes, weights=place), model_info(model).preprocessing
    given = data.preprocessing
    if own is not None and given is not None and (own.mean, own.std) != (given.mean, given.std):
        teacher = Renormalised(teacher, given=given, own=own)
    require_fit(Problem(f"The teacher in {str(place)!r}", model, classes, teacher, data))
    return teacher
