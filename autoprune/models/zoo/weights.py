"""Reading trained weights safely, and fingerprints that name them."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import WeightsError, one_line
from autoprune.models.modules.compiled import WRAPPED

_SHOWN = 3
_WRAPPERS = ("state_dict", "model_state_dict", "model")
#: A counter that older files lack and that no forward pass reads.
_OPTIONAL_SUFFIX = "num_batches_tracked"


def load_weights(model: nn.Module, path: Path, *, unused: tuple[str, ...] = ()) -> None:
    """Loads a state dict (`.pt`, `.pth`, `.safetensors`) into a model, in place and strictly.

    A wrapper `{"state_dict": ...}`, the prefix `module.` of parallel training and what torch.compile adds to names are
    taken off. Only batch norm's
    `num_batches_tracked` may be missing.

    Args:
        model: to be filled.
        path: the file.
        unused: beginnings of names that the file may have and the model may lack.

    Raises:
        WeightsError: the file is missing, unreadable, needs code to load, is made for another network, or holds
            values that are not finite.
    """
    wanted = model.state_dict()
    state = {
        name: value
        for name, value in _without_prefix(read_state(path)).items()
        if name in wanted or not name.startswith(unused)
    }
    _require_match(wanted, state, path)
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f"{path}: {name!r} holds values that are not finite. The weights are of no use.")
    model.load_state_dict(state, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a weights file by name, on the CPU.

    Raises:
        WeightsError: the file is missing, corrupt, needs code to load, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"No weights file at {path}. Give the path of a .pt, .pth or .safetensors file.")
    content: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(str(path), device="cpu")
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, error)) from error
    except PermissionError as error:
        raise WeightsError(f"Cannot read the weights file {path}: permission denied.") from error
    except Exception as error:  # both raise many types on a corrupt file
        raise WeightsError(f"Cannot read the weights file {path} ({one_line(error)}). It seems corrupt.") from error
    return _tensors(content, path)


def sha256_of(path: Path) -> str:
    """Returns the hex SHA-256 of a file's bytes.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"Cannot read {path}: {one_line(error)}") from error


def state_fingerprint(model: nn.Module) -> str:
    """Returns a hex SHA-256 over names, types, shapes and bytes of a model's state, sorted by name."""
    digest = hashlib.sha256()
    state = model.state_dict()
    for name in sorted(state):
        array = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}|".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _refusal(path: Path, error: Exception) -> str:
    # torch answers a truncated or foreign file and a forbidden pickle with the same exception type.
    if re.search(r"Unsupported (global|class)|GLOBAL|REDUCE", str(error)):
        return (
            f"{path} holds more than tensors, and loading it would run code. Save its `state_dict()` with torch.save "
            "or as .safetensors, and give that file."
        )
    kind = "It seems truncated." if zipfile.is_zipfile(path) else "It is not a file that torch.save wrote."
    return f"Cannot read the weights file {path}. {kind}"


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds a {type(content).__name__} and no state dict. Save `model.state_dict()`.")
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(f"{path}: {_some(strangers)} are no tensors. Save `model.state_dict()` alone.")
    return {str(name): value for name, value in content.items()}


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "module."
    state = {name.replace(f"{WRAPPED}.", ""): value for name, value in state.items()}
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _require_match(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    missing = [name for name in wanted if name not in state and not name.endswith(_OPTIONAL_SUFFIX)]
    unexpected = [name for name in state if name not in wanted]
    wrong = [
        f"{name} (file {_shape(state[name])}, model {_shape(wanted[name])})"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {kind}: {_some(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if names
    ]
    if problems:
        hint = "Check that the model named is the one these weights were saved from"
        if wrong and not missing and not unexpected:
            hint += " and has as many classes"
        raise WeightsError(f"{path} does not fit the model: {'; '.join(problems)}. {hint}.")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
