"""A run folder as every command reads it: its records by name, and one line where one is missing or cannot be read.

A folder may come from others. Here it is checked that its files can be read; whether what they say can be believed is
checked by those who act on it (see `autoprune.searching.inputs.recorded`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.config.layout import INCUMBENT, LEDGER, STRUCTURE, SUMMARY, TRAINING, found_instead
from autoprune.core.files import require_format
from autoprune.errors import ConfigError, RunError
from autoprune.report.records.run import FINETUNE, PRUNE, SEARCH, TRAIN, RunRecord
from autoprune.study.ledger import Event, read_header, read_ledger
from autoprune.study.lock import LOCK_NAME

SUMMARY_FORMAT = 1
TRAINING_FORMAT = 1


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a search, of a pruning or of a training; nothing of it is read before it is asked for.

    Attributes:
        path: of the folder, which may be missing.
    """

    path: Path

    @classmethod
    def around(cls, network: Path) -> RunFolder:
        """Returns the run that a saved network lies in, if it lies in one."""
        return cls(network.parent)

    def holds(self, name: str) -> bool:
        """Returns whether a file is there."""
        return (self.path / name).is_file()

    def require_run(self) -> None:
        """Checks that the folder holds a run, whichever command began it.

        Raises:
            RunError: it holds none, or is missing.
        """
        if not any(self.holds(name) for name in (SUMMARY, TRAINING, LEDGER)):
            raise RunError(
                f"{str(self.path)!r} holds no run: neither {SUMMARY} nor {TRAINING}.{found_instead(self.path)} "
                "Name a folder such as runs/NAME."
            )

    def require_search(self, what: str = "search") -> None:
        """Checks that the folder holds a search; `what` is its name in the message.

        Raises:
            RunError: it holds none, or is missing.
        """
        if not self.holds(LEDGER):
            found, hint = found_instead(self.path), "Name a folder under runs/."
            if self.holds(LOCK_NAME) and not found:
                hint = "What began there was ended before its first candidate: start it again as before."
            raise RunError(f"{str(self.path)!r} holds no {what}: {LEDGER} is missing.{found} {hint}")

    def require_new(self) -> None:
        """Checks that the folder holds neither a pruning nor a training, nor a search that has ended.

        Raises:
            ConfigError: it does.
        """
        if any((self.path / name).exists() for name in (SUMMARY, TRAINING)):
            raise ConfigError(f"{str(self.path)!r} already holds a run. Name another folder with --out.")

    def events(self) -> tuple[Event, ...]:
        """Returns the events of the ledger, the header first.

        Raises:
            RunError: the ledger is missing, damaged before its last line, or of another format.
        """
        return read_ledger(self.path / LEDGER)

    def header(self) -> Mapping[str, Any]:
        """Returns what the ledger says of how the search was started.

        Raises:
            RunError: as `events`.
        """
        return read_header(self.path / LEDGER)

    def recorded(self, name: str) -> Any:
        """Returns what the ledger's header says under a name, None where it or the ledger says nothing."""
        with suppress(RunError):
            return self.header().get(name)
        return None

    def recorded_path(self, option: str) -> Path | None:
        """Returns the path that the search was given for an option, None where there is none, or nothing any more."""
        options = self.recorded("options")
        value = options.get(option) if isinstance(options, Mapping) else None
        with suppress(OSError, ValueError):  # a name that no disk bears
            return Path(value) if isinstance(value, str) and Path(value).exists() else None
        return None

    def has_outcomes(self) -> bool:
        """Returns whether anything was evaluated; the ledger may be damaged or too new to be read."""
        with suppress(OSError):
            return b'"told"' in (self.path / LEDGER).read_bytes()
        return False

    def summary(self, *, remedy: str = "Was it written by autoprune?") -> dict[str, Any]:
        """Returns the content of `summary.json`; `remedy` says what to do where it cannot be read.

        Raises:
            RunError: it is missing, no JSON object, or of another format.
        """
        return _read(self.path / SUMMARY, reads=SUMMARY_FORMAT, remedy=remedy)

    def training(self) -> dict[str, Any]:
        """Returns the content of `training.json`.

        Raises:
            RunError: it is missing, no JSON object, of another format, or not the record of a training.
        """
        if not self.holds(TRAINING):
            raise RunError(f"{str(self.path)!r} holds no training: {TRAINING} is missing.{found_instead(self.path)}")
        path, remedy = self.path / TRAINING, "Start the training anew."
        record = _read(path, reads=TRAINING_FORMAT, remedy=remedy)
        known = "format" in record and record.get("kind") in (TRAIN, FINETUNE)
        if not (known and isinstance(record.get("options"), dict)):
            raise RunError(f"{path} is not the record of a training of this version. {remedy}")
        return record

    def record(self) -> RunRecord:
        """Returns what the folder of a run that has ended says, whichever command wrote it.

        Raises:
            RunError: it holds no run, one that has not ended, or one whose files cannot be read.
        """
        self.require_run()
        if self.holds(SUMMARY):
            summary = self.summary()
            searched = self.holds(LEDGER) and not summary.get("method")
            kind, events = (SEARCH, self.events()) if searched else (PRUNE, ())
            return RunRecord(str(self.path), kind, summary, _structure(self.path / INCUMBENT), events)
        if self.holds(TRAINING):
            record = self.training()
            return RunRecord(str(self.path), record["kind"], record, _structure(self.path))
        raise RunError(
            f"The search in {str(self.path)!r} has no {SUMMARY} yet. Wait for its end, or continue it with --resume."
        )


def _structure(folder: Path) -> dict[str, Any]:
    """Returns what is known of a saved network, nothing where there is none."""
    path = folder / STRUCTURE
    return _read(path, reads=None, remedy="Was it written by autoprune?") if path.is_file() else {}


def _read(path: Path, *, reads: int | None, remedy: str) -> dict[str, Any]:
    """Returns the JSON object in a file, of the format that is read here; None reads them all."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__}). {remedy}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no JSON object. {remedy}")
    if reads is not None and "format" in content:
        require_format(content, reads=reads, where=str(path), remedy=remedy)
    return content
