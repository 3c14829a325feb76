"""Checkpoints of a training: written whole or not at all, checked when they are read, never unpickled."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoprune.core.files import WRITER, Writer, remove_leftovers, require_format, this_version, write_whole
from autoprune.errors import ConfigError, RunError, one_line

FORMAT = 1
#: Two, so that a disk that damages the newest file costs one epoch and not the training.
_KEPT = 2
_NAME = re.compile(r"step-(\d{8,})\.pt")

State = Mapping[str, Any]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """Where a training leaves its checkpoints, and how often beyond the end of every whole epoch.

    Attributes:
        directory: of this training alone; one with its checkpoints is gone on from.
        every_steps: also after every so many steps, for epochs that take long; None for epochs alone.
        dispensable: whether a training begins anew where its checkpoints are damaged or of another one.
    """

    directory: Path
    every_steps: int | None = None
    dispensable: bool = False

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ConfigError(f"Checkpoints every {self.every_steps} steps are not possible. Give at least 1, or None.")


class CheckpointFolder:
    """The checkpoints of one training, the newest two."""

    def __init__(self, directory: Path, identity: Mapping[str, str | int | float | bool]) -> None:
        """Writes nothing yet.

        Args:
            directory: where they lie; made when the first is written.
            identity: whatever must be equal for a checkpoint to belong to this training.
        """
        self._directory = Path(directory)
        self._identity = dict(identity)

    def save(self, state: State, *, step: int) -> None:
        """Writes the state after a step; a disk that refuses costs the checkpoint, not the training."""
        state = _on_cpu(state)
        content = {"format": FORMAT, WRITER: this_version(), "identity": self._identity, **state}
        whole = {**content, "digest": _digest(content)}
        _write(self._directory / f"step-{step:08d}.pt", lambda place: torch.save(whole, place))

    def newest(self, *, anyhow: bool = False) -> dict[str, Any] | None:
        """Returns the newest state that is whole, or None where there is no checkpoint.

        Args:
            anyhow: whether checkpoints that are of no use are thrown away with a warning instead of being an error.

        Raises:
            RunError: the checkpoint is of another training, or there are checkpoints and none can be read.
        """
        try:
            return self._newest()
        except RunError as error:
            if not anyhow:
                raise
            _log.warning("%s The training begins anew.", error)
            remove_checkpoints(self._directory)
            return None

    def _newest(self) -> dict[str, Any] | None:
        found = _found(self._directory)
        for number, (_, path) in enumerate(found):
            try:
                content = read_checkpoint(path)
            except RunError as error:
                if number == len(found) - 1:
                    raise
                _log.warning("%s The one before it is used.", error)
                continue
            self._require_mine(content["identity"], path)
            return content
        return None

    def _require_mine(self, other: Mapping[str, Any], path: Path) -> None:
        changed = [
            f"{name} is {other.get(name)!r} there and {self._identity.get(name)!r} here"
            for name in sorted({*other, *self._identity})
            if other.get(name) != self._identity.get(name)
        ]
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise RunError(
                f"The checkpoint {path} is of another training: {changed[0]}{more}. Train with what it was started "
                "with, or choose another folder."
            )


def keep_checkpoint(directory: Path, name: str, content: bytes) -> None:
    """Writes a checkpoint that another process has made, as `CheckpointFolder.save` writes its own."""
    _write(Path(directory) / name, lambda place: place.write_bytes(content))


def newest_checkpoint(directory: Path) -> Path | None:
    """Returns the newest checkpoint file in a folder, None where there is none; it is not read."""
    found = _found(Path(directory))
    return found[0][1] if found else None


def remove_checkpoints(directory: Path) -> None:
    """Removes the checkpoints in a folder, and the folder if nothing else is in it."""
    for _, path in _found(directory):
        path.unlink(missing_ok=True)
    remove_leftovers(directory)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint, its tensors on the CPU; nothing in the file is executed.

    Raises:
        RunError: the file is missing, damaged, of another format, or no checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on a damaged file
        raise RunError(f"The checkpoint {path} is damaged or cannot be read ({one_line(error)}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("identity"), dict):
        raise RunError(f"{path} is no checkpoint of a training.")
    require_format(content, reads=FORMAT, where=f"The checkpoint {path}", remedy="Start the training anew.")
    # torch's own reader does not look at the checksums of its archive: a flipped bit would become a weight.
    if content.pop("digest", None) != _digest(content):
        raise RunError(f"The checkpoint {path} is damaged: its content does not match its checksum.")
    return content


def _write(path: Path, write: Writer) -> None:
    """Writes a checkpoint and leaves the newest; a disk that refuses costs the checkpoint, not the training."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What a training that was killed has left: half a checkpoint is as large as a whole one.
        remove_leftovers(path.parent)
        write_whole(path, write)
        for _, old in _found(path.parent)[_KEPT:]:
            old.unlink(missing_ok=True)
    # torch wraps the errors of the disk below it in a RuntimeError.
    except (OSError, RuntimeError) as error:
        _log.warning("No checkpoint can be written to %s (%s); the training goes on.", path, one_line(error))


def _found(directory: Path) -> list[tuple[int, Path]]:
    """Returns (step, file) of every checkpoint in a folder, the newest first."""
    if not directory.is_dir():
        return []
    named = [(_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        # A view would be stored with all of what it looks at.
        return value.detach().cpu().contiguous().clone()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_on_cpu(item) for item in value]
    return value


def _digest(content: Any) -> str:
    """Returns a hex SHA-256 over everything in nested mappings and lists of tensors and plain values."""
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"map {len(value)};".encode())
        for key, item in value.items():
            digest.update(f"{key!r};".encode())
            _feed(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)};".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{value!r};".encode())
