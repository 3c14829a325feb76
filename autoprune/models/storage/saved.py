"""Saved models: `model.safetensors` with the weights and `structure.json` with all that is needed to rebuild them.

Nothing is pickled. A model is rebuilt by making the dense network from its recorded name and giving every layer the
stored tensors; the layers take their widths from these.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.config.layout import STRUCTURE, WEIGHTS, saved_folder
from autoprune.core.files import WRITER, cannot_write, remove_leftovers, require_format, this_version, write_together
from autoprune.errors import ModelError, RunError, one_line
from autoprune.models.cutting.attention import adapt
from autoprune.models.cutting.surgery import Kept
from autoprune.models.modules.compiled import uncompiled
from autoprune.models.modules.layers import ChannelMap
from autoprune.models.modules.portable import initialised, on_any_device
from autoprune.models.modules.replicas import replicate
from autoprune.models.network import TracedNetwork
from autoprune.models.zoo.weights import sha256_of
from autoprune.plugins import require_foreign

FORMAT = 1
#: Elements of the largest image that is believed: a wrong shape must not take all memory.
_LARGEST_IMAGE = 1 << 26


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_widths(value: object) -> bool:
    return isinstance(value, dict) and all(_is_count(item) or item == 0 for item in value.values())


def _is_counts(value: object) -> bool:
    return isinstance(value, dict) and all(_is_count(item) for item in value.values())


def _is_indices(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _is_shape(value: object) -> bool:
    fine = isinstance(value, list) and len(value) == 3 and all(_is_count(side) for side in value)
    return fine and isinstance(value, list) and math.prod(value) <= _LARGEST_IMAGE


#: {field: whether a value may stand in it, what may stand there}.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (lambda value: value is None or isinstance(value, str), "a name or null"),
    "classes": (lambda value: value is None or _is_count(value), "a positive number or null"),
    "class_names": (
        lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
        "a list of names",
    ),
    "input_shape": (_is_shape, "[channels, height, width] of an image"),
    "preprocessing": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "widths": (_is_widths, "an object of numbers, none below zero"),
    "kept": (lambda value: isinstance(value, dict) and all(map(_is_indices, value.values())), "an object of lists"),
    "dense_widths": (_is_counts, "an object of positive numbers"),
    "maps": (lambda value: isinstance(value, dict), "an object"),
    "dense": (lambda value: isinstance(value, dict), "an object"),
    "cost": (_is_counts, "an object of positive numbers"),
    "info": (lambda value: isinstance(value, dict), "an object"),
    "weights_sha256": (lambda value: value is None or isinstance(value, str), "a SHA-256 or null"),
}


@dataclass(frozen=True)
class SavedModel:
    """What a `structure.json` says.

    Attributes:
        model: the name the dense network is built by (`cifar/resnet20-b`, `package.module:factory`), or None where
            a network object was searched: `load` then needs it.
        classes: number of outputs the network was built with, None for the network's own.
        class_names: in the order of the outputs.
        input_shape: (C, H, W).
        preprocessing: `mean`, `std`, `size`, or None.
        widths: {group: kept width}; 0 for one that has vanished.
        kept: {group: ascending kept channels}.
        dense_widths: {group: width in the dense network}.
        maps: {`ChannelMap` module: [source, in_channels]}.
        dense: where the dense network came from: `weights`, `sha256`, `fingerprint`.
        cost: `macs`, `flops`, `params`.
        info: accuracies, provenance and whatever else is worth keeping.
        weights_sha256: of the bytes of `model.safetensors`, filled in by `save_model`; None in folders that were
            written before it was.
    """

    model: str | None
    classes: int | None
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    preprocessing: Mapping[str, Any] | None
    widths: Mapping[str, int]
    kept: Mapping[str, list[int]]
    dense_widths: Mapping[str, int]
    maps: Mapping[str, Any]
    dense: Mapping[str, Any]
    cost: Mapping[str, int]
    info: Mapping[str, Any]
    weights_sha256: str | None = None

    def to_json(self) -> str:
        """Returns the text of the file."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({"format": FORMAT, WRITER: this_version(), **values}, indent=1)

    @classmethod
    def from_json(cls, text: str, where: str) -> SavedModel:
        """Returns the saved model that a file describes.

        Raises:
            RunError: it is no JSON object of this format, or a field is missing or of another type.
        """
        try:
            values = json.loads(text)
            content = values if isinstance(values, dict) else {}
            require_format(content, reads=FORMAT, where=where, remedy="Make it again.")
            fields = {name: values[name] for name in cls.__dataclass_fields__ if name != "weights_sha256"}
        except KeyError as error:
            raise RunError(f"{where} lacks the key {error.args[0]!r}. Make it again.") from error
        except (ValueError, RecursionError) as error:
            raise RunError(f"{where} cannot be read: {one_line(error)}. Make it again.") from error
        fields["weights_sha256"] = content.get("weights_sha256")
        for name, (holds, wanted) in _FIELDS.items():
            if not holds(fields[name]):
                raise RunError(f"{where}: {name!r} must be {wanted}. Make it again.")
        if {name: len(kept) for name, kept in fields["kept"].items()} != fields["widths"]:
            raise RunError(f"{where}: 'widths' and 'kept' contradict each other. Make it again.")
        for name in ("class_names", "input_shape"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def describe_maps(model: nn.Module) -> dict[str, list[Any]]:
    """Returns {module name: [source, in_channels]} of every `ChannelMap`."""
    return {
        name: [list(module.source), module.in_channels]
        for name, module in model.named_modules()
        if isinstance(module, ChannelMap)
    }


def kept_by_name(network: TracedNetwork, kept: Kept) -> dict[str, list[int]]:
    """Returns {group: ascending kept channels}."""
    return {group.name: index.tolist() for group, index in zip(network.groups, kept.indices, strict=True)}


def kept_from_names(network: TracedNetwork, kept: Mapping[str, list[int]]) -> Kept:
    """Returns the kept channels of a mapping by group name; groups it leaves out keep everything."""
    everything = {group.name: list(range(group.width)) for group in network.groups}
    return Kept(tuple(np.array({**everything, **kept}[group.name], dtype=np.int64) for group in network.groups))


def save_model(directory: Path, model: nn.Module, saved: SavedModel) -> None:
    """Writes both files; the structure last, which knows the digest of the weights: a folder with one is complete.

    Raises:
        RunError: they cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # A tied tensor is stored under every name it has: rebuilding needs no knowledge of ties.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    digest: str | None = None

    def write_weights(place: Path) -> None:
        nonlocal digest
        save_file(state, place)
        digest = sha256_of(place)

    def write_structure(place: Path) -> None:
        place.write_text(replace(saved, weights_sha256=digest).to_json(), encoding="utf-8")

    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory)
        # An older structure must not stand beside newer weights, not even for a moment.
        write_together({directory / WEIGHTS: write_weights, directory / STRUCTURE: write_structure})
    except OSError as error:
        raise cannot_write(directory, error) from error
    except SafetensorError as error:  # a full disk, as safetensors tells of it
        raise cannot_write(directory, OSError(str(error))) from error


def read_saved(directory: Path) -> SavedModel:
    """Returns the description of a saved model.

    Raises:
        RunError: the folder or the file is missing or cannot be read.
    """
    path = Path(directory) / STRUCTURE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"There is no saved model in {str(directory)!r}: {STRUCTURE} cannot be read ({error.strerror}). "
            "Name a folder such as runs/NAME/incumbent."
        ) from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not a text file. Make it again.") from error
    return SavedModel.from_json(text, str(path))


def load(directory: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """Returns a saved model, in eval mode on the CPU.

    Nothing in the folder is executed, but a network that was searched as `package.module:factory` is made by importing
    and calling that: mind it with folders from others.

    Args:
        directory: for example `runs/NAME/incumbent`, or the run folder `runs/NAME`.
        model: the dense network (its weights do not matter), needed where a network object was searched.

    Raises:
        RunError: the folder cannot be read, its weights are not those that were saved, or do not fit the network.
        ModelError: the dense network cannot be built, or is none, or its lazy layers cannot be made.
    """
    if not isinstance(directory, str | Path):
        raise RunError(f"The folder of a saved network is a {type(directory).__name__}, not a path. Name one.")
    if model is not None and not isinstance(model, nn.Module):
        raise ModelError(f"The model is a {type(model).__name__}, not a network. Give an instance of an nn.Module.")
    directory = saved_folder(Path(directory))
    saved = read_saved(directory)
    if model is None:
        if saved.model is None:
            raise ModelError(
                f"{str(directory)!r} was searched from a network object. Give it to autoprune.load(..., model=...)."
            )
        from autoprune.models.zoo.catalogue import build_model

        require_foreign(saved.model, directory)
        model = build_model(saved.model, classes=saved.classes, weights=None)
    model = adapt(uncompiled(initialised(model, saved.input_shape)))
    made = rebuild(model, _read_weights(directory, saved), saved.maps, where=str(directory))
    on_any_device(made)
    try:
        with torch.no_grad():
            made(torch.zeros(1, *saved.input_shape))
    except Exception as error:  # the forward may be the user's code
        raise RunError(
            f"The weights and channel maps in {str(directory)!r} do not fit the network: its forward fails on "
            f"{'x'.join(map(str, saved.input_shape))} images ({one_line(error)})."
        ) from error
    return made


def rebuild(model: nn.Module, state: Mapping[str, Tensor], maps: Mapping[str, Any], *, where: str) -> nn.Module:
    """Returns the dense network with the stored tensors in place of its own.

    Raises:
        RunError: names or dimensions do not fit.
    """
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    wanted = set(model.state_dict())
    # A buffer that no state dict holds is in the file if it was cut.
    missing, unknown = sorted(wanted - set(state)), sorted(set(state) - set(own))
    if missing or unknown:
        what = f"lack {missing[0]!r}" if missing else f"hold the unknown {unknown[0]!r}"
        raise RunError(f"The weights in {where} do not fit the network: they {what}.")
    for name, tensor in state.items():
        dense = own[name]
        if tensor.dim() != dense.dim() or any(n > d for n, d in zip(tensor.shape, dense.shape, strict=True)):
            raise RunError(f"The weights in {where} do not fit the network: {name!r} has shape {tuple(tensor.shape)}.")
        if tensor.is_floating_point() != dense.is_floating_point():
            raise RunError(f"The weights in {where} do not fit the network: {name!r} holds {tensor.dtype}.")
    expected = {name for name, module in model.named_modules() if isinstance(module, ChannelMap)}
    if set(maps) != expected:
        odd = sorted(set(maps) ^ expected)[0]
        raise RunError(f"The channel maps in {where} do not fit the network: {odd!r} is in one of them alone.")
    try:
        made = {str(name): ChannelMap(source, int(width)) for name, (source, width) in maps.items()}
    except (TypeError, ValueError) as error:
        raise RunError(f"The channel maps in {where} cannot be read: {one_line(error)}.") from error
    replaced = {id(own[name]): tensor for name, tensor in state.items()}
    with torch.no_grad():
        return replicate(model, replaced, made).eval()


def _read_weights(directory: Path, saved: SavedModel) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = directory / WEIGHTS
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"The weights {str(path)!r} cannot be read ({error}).") from error
    if saved.weights_sha256 is not None and sha256_of(path) != saved.weights_sha256:
        raise RunError(
            f"The weights {str(path)!r} are not those that were saved: their SHA-256 is another than {STRUCTURE} says. "
            "The file is damaged or was replaced. Make it again."
        )
    return state
