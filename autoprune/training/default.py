"""The networks that come trained: the one that a search runs on when none is named, a transformer and a U-Net.

They are trained on first use and kept; the package carries no weights.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from torch import nn

from autoprune.core.files import write_whole
from autoprune.data.preprocessing import Augmentation
from autoprune.data.sources import load_data
from autoprune.errors import WeightsError
from autoprune.models.zoo.catalogue import build_model, model_info
from autoprune.models.zoo.weights import load_weights, state_fingerprint
from autoprune.training.recipe import Recipe
from autoprune.training.trainer import OnStep, train

DEFAULT_MODEL = "digits/resnet"
DEFAULT_DATA = "digits"
CACHE_VARIABLE = "AUTOPRUNE_CACHE_DIR"
#: {name: (version, recipe)}; a version is raised whenever its network or training changes, so that no older file is
#: taken for the new network.
_EMBEDDED = {
    DEFAULT_MODEL: (5, Recipe(epochs=20, learning_rate=0.1, batch_size=64, warmup_epochs=1, label_smoothing=0.05)),
    "digits/vit": (
        2,
        Recipe(epochs=60, learning_rate=0.1, batch_size=64, warmup_epochs=5, label_smoothing=0.05, gradient_clip=1.0),
    ),
    "digits/unet": (2, Recipe(epochs=20, learning_rate=0.1, batch_size=32, warmup_epochs=1, gradient_clip=1.0)),
}
_SEED = 0

_log = logging.getLogger(__name__)

#: From scratch, shifts by a pixel help; finetuning cut networks goes without (see the source of `digits`).
_AUGMENTATION = Augmentation(1)


def is_embedded(spec: str) -> bool:
    """Returns whether a network of that name comes trained."""
    return spec in _EMBEDDED


def embedded_model(
    spec: str = DEFAULT_MODEL, *, cache_dir: Path | None = None, on_progress: OnStep | None = None, device: str = "cpu"
) -> nn.Module:
    """Returns a network trained on the training part of its data, scikit-learn's digits, in eval mode on the CPU.

    Args:
        spec: its name, see `is_embedded`.
        cache_dir: where the weights are kept; None for `default_cache_dir()`.
        on_progress: called with (step, steps) while it is trained for the first time.
        device: where it is trained.
    """
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    version, recipe = _EMBEDDED[spec]
    path = folder / f"{spec.replace('/', '-')}-v{version}.safetensors"
    model = _cached(spec, path)
    if model is not None:
        return model
    # The initial weights come from torch's global generator, whose state is the caller's business.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = build_model(spec)
    data = load_data(model_info(spec).default_data)
    train(
        model,
        data.train,
        range(len(data.train)),
        recipe,
        seed=_SEED,
        augmentation=_AUGMENTATION,
        device=device,
        on_step=on_progress,
        task=data.task,
    )
    model.cpu()
    try:
        _keep(model, path)
    except OSError as error:
        _log.warning("%s cannot be kept in %s (%s); it is trained again next time.", spec, folder, error)
    return model


def default_cache_dir() -> Path:
    """Returns the folder of the environment variable AUTOPRUNE_CACHE_DIR, else the user's cache folder."""
    import platformdirs

    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("autoprune"))


def _cached(spec: str, path: Path) -> nn.Module | None:
    """Returns the kept network, or None if there is none or the file is damaged."""
    if not path.is_file():
        return None
    from safetensors import safe_open

    model = build_model(spec)
    try:
        load_weights(model, path)
        with safe_open(str(path), framework="pt") as file:
            fingerprint = (file.metadata() or {}).get("fingerprint")
    except (WeightsError, OSError) as error:
        _log.warning("The kept %s is damaged and trained again: %s", spec, error)
        return None
    return model if fingerprint == state_fingerprint(model) else None


def _keep(model: nn.Module, path: Path) -> None:
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    content = save(dict(model.state_dict()), metadata={"fingerprint": state_fingerprint(model)})
    # Written beside and renamed: another process sees the whole file or none.
    write_whole(path, lambda place: place.write_bytes(content))
