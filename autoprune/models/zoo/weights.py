"""Reading trained weights safely, and fingerprints that name them."""

from __future__ import annotations

import hashlib
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
#: What to do where a file is a program.
_SAVE = "Save its `state_dict()` with torch.save or as .safetensors, and give that file."
#: A counter that older files lack and that no forward pass reads.
_OPTIONAL_SUFFIX = "num_batches_tracked"
#: How many networks `torch.optim.swa_utils.AveragedModel` has averaged: in its state dict, and of no network.
_AVERAGED = "n_averaged"
#: What files begin with: a ZIP archive, as torch.save writes them, and what it wrote before torch 1.6.
_ZIP, _LEGACY = b"PK", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def load_weights(model: nn.Module, path: Path, *, unused: tuple[str, ...] = ()) -> None:
    """Loads a state dict (`.pt`, `.pth`, `.safetensors`) into a model, in place and strictly.

    What lies around the state dict, such as `{"state_dict": ...}`, is taken off, and so are a prefix that all its names
    share and the model's lack (`module.` of parallel training, `model.` of Lightning) and what torch.compile adds to
    names. Only batch norm's `num_batches_tracked` may be missing.

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
        for name, value in _without_prefix(read_state(path), wanted).items()
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
    except PermissionError as error:
        raise WeightsError(f"Cannot read the weights file {path}: permission denied.") from error
    except Exception as error:  # both raise many types on a corrupt file
        raise WeightsError(_refusal(path, error)) from error
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
    """Returns why a file cannot be read: torch and safetensors answer with types and advice that mislead."""
    with path.open("rb") as file:
        begins = file.read(len(_LEGACY))
    zipped = begins.startswith(_ZIP)
    if not begins:
        return f"Cannot read the weights file {path}: it is empty."
    if path.suffix == ".safetensors":
        hint = " It seems to be one of torch.save: give it a name that ends in .pt." if zipped else ""
        return f"Cannot read the weights file {path}: it is no whole .safetensors file.{hint}"
    if zipped and zipfile.is_zipfile(path):
        return _refused_archive(path, error)
    if begins == _LEGACY and _is_forbidden(error):
        return f"{path} holds more than tensors, and loading it would run code. {_SAVE}"
    if zipped or begins == _LEGACY:
        return f"Cannot read the weights file {path}. It seems truncated or damaged: copy or download it again."
    return (
        f"Cannot read the weights file {path}. It is not a file that torch.save wrote. If it holds safetensors, give "
        "it a name that ends so."
    )


def _refused_archive(path: Path, error: Exception) -> str:
    """Returns why torch does not read a ZIP archive."""
    with zipfile.ZipFile(path) as archive:
        parts = {Path(name).name for name in archive.namelist()}
    if "constants.pkl" in parts:
        return f"{path} is a TorchScript archive, a program, which is not run. Open it with torch.jit.load. {_SAVE}"
    if _is_forbidden(error):
        return f"{path} holds more than tensors, and loading it would run code. {_SAVE}"
    kind = "It seems damaged: copy or download it again." if "data.pkl" in parts else "torch.save did not write it."
    return f"Cannot read the weights file {path}. {kind}"


def _is_forbidden(error: Exception) -> bool:
    """Returns whether torch refused what a pickle names; it answers a damaged one with the same exception type."""
    # A name that ends in a dot is where the file ends.
    return re.search(r"Unsupported class|REDUCE|GLOBAL (?!\S*\.\s)", str(error)) is not None


def _state_dict(content: Any) -> Any:
    """Returns what a file wraps: under a usual name, or the one mapping of names to tensors under any other."""
    if not isinstance(content, Mapping):
        return content
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return content[wrapper]
    states = [
        value
        for value in content.values()
        if isinstance(value, Mapping) and value and all(isinstance(item, Tensor) for item in value.values())
    ]
    return states[0] if len(states) == 1 else content


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    content = _state_dict(content)
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds a {type(content).__name__} and no state dict. Save `model.state_dict()`.")
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(f"{path}: {_some(strangers)} are no tensors. Save `model.state_dict()` alone.")
    return {str(name): value for name, value in content.items()}


def _without_prefix(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict without the prefix, of all that its names share, whose rest names most of what is wanted."""
    state = {
        name.replace(f"{WRAPPED}.", ""): value for name, value in state.items() if name != _AVERAGED or name in wanted
    }
    shared: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in state), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    prefixes = ["".join(f"{part}." for part in shared[:count]) for count in range(len(shared) + 1)]
    # The shortest of equals, which is none at all where nothing fits: messages then show the names as they are.
    prefix = max(prefixes, key=lambda start: sum(name.removeprefix(start) in wanted for name in state))
    return {name.removeprefix(prefix): value for name, value in state.items()}


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
