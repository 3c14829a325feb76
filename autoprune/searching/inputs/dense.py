"""The dense network that a saved one was cut from: it teaches, and names the classes of images without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from autoprune.config.options import WEIGHTS_ROOT_VARIABLE
from autoprune.errors import ConfigError
from autoprune.models.storage.saved import SavedModel
from autoprune.models.zoo.catalogue import build_model
from autoprune.models.zoo.weights import sha256_of, state_fingerprint
from autoprune.report.observer import Observer
from autoprune.searching.inputs.run_folder import RunFolder
from autoprune.training.default import embedded_model, is_embedded


def dense_network(
    folder: Path, saved: SavedModel, weights: Path | None, observer: Observer, *, otherwise: str
) -> nn.Module:
    """Returns the network that a saved one was cut from.

    Args:
        folder: of the saved network.
        saved: its description.
        weights: the dense weights; None to look for them where the search found them, and where weights usually lie.
        observer: hears of weights other than the recorded ones.
        otherwise: what else the caller can do where there is no such network or file; a sentence.

    Raises:
        ConfigError: they are not found.
    """
    if saved.model is None:
        raise ConfigError(f"{str(folder)!r} was cut from a network object, which is not here. {otherwise}")
    sha = saved.dense.get("sha256")
    if weights is not None:
        if sha is not None and sha256_of(weights) != sha:
            observer.warning(f"{weights} is not the file that {folder} was cut from; it teaches all the same.")
        return build_model(saved.model, classes=saved.classes, weights=weights)
    for path in _places(folder, saved):
        if path.is_file() and sha256_of(path) == sha:
            return build_model(saved.model, classes=saved.classes, weights=path)
    if sha is None:
        made = _made(saved.model, saved.classes, observer)
        if made is not None and state_fingerprint(made) == saved.dense.get("fingerprint"):
            return made
    named = saved.dense.get("weights")
    what = f"The dense weights {named!r}" if named else "The dense weights"
    raise ConfigError(
        f"{what} that {str(folder)!r} was cut from are not found: not beside it, nor below {WEIGHTS_ROOT_VARIABLE}. "
        f"{otherwise}"
    )


def _made(spec: str, classes: int | None, observer: Observer) -> nn.Module | None:
    """Returns a network that comes with its weights: an embedded one, or what a factory builds; None for others."""
    if is_embedded(spec):
        return embedded_model(spec, on_progress=observer.progress)
    return build_model(spec, classes=classes) if ":" in spec else None


def _places(folder: Path, saved: SavedModel) -> Iterator[Path]:
    """Yields where the dense weights may lie; whether a file is the one, its checksum says."""
    recorded = RunFolder.around(folder).recorded_path("weights")
    if recorded is not None:
        yield recorded
    name = saved.dense.get("weights")
    # A name and no path: the file of a stranger does not choose where this one looks.
    if isinstance(name, str) and name == Path(name).name and "\0" not in name:
        root = os.environ.get(WEIGHTS_ROOT_VARIABLE)
        places = [Path(root)] if root else []
        yield from (place / name for place in (*places, Path(), folder, folder.parent))
