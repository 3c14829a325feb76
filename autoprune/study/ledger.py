"""The ledger: every ask and tell of a search, one JSON object a line, on the disk before the search goes on.

The first line says what must match on resume. Every line carries a CRC-32 of the rest of itself. A last line that is
not whole is what a crash leaves: it is dropped with a warning, and so is a line that repeats an earlier one, for
nothing is asked or told twice. Any other damage is an error, since what follows would not replay.

Events:
    header  {"format", "autoprune", "run"}: written once; the second is the version that wrote it
    asked   {"id", "level", "widths", "proposed_by", "seed", "macs", "params"} and its cost in every other resource
            that is known: a proposal, or a late promotion
    waited  {}: the strategy had nothing to propose
    told    {"id", "level", "next", "worker", "seconds"} with either {"score", "accuracy", "metrics", "reused"} or
            {"failed"}; `next` is the rung that the candidate climbs to, or null
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from autoprune.core.candidate import Candidate, Evaluation, Failure, Outcome
from autoprune.core.files import WRITER, open_in_place, require_format, sync_folder, this_version
from autoprune.errors import RunError
from autoprune.study.events import is_event
from autoprune.study.lock import flocked

Event = Mapping[str, Any]

#: Version of the format; a reader refuses every other.
FORMAT = 1
#: Characters of a value that a message shows.
_LONGEST_VALUE = 80

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """What a ledger holds.

    Attributes:
        events: the header first; none where nothing was begun.
        size: bytes of the whole lines, behind which the next one is written.
    """

    events: tuple[Event, ...] = ()
    size: int = 0

    @property
    def run(self) -> Mapping[str, Any]:
        """What the header says of the run, whatever must match on resume; empty where nothing was begun."""
        return run_of(self.events) if self.events else {}


def read_ledger(path: Path) -> tuple[Event, ...]:
    """Returns the events of a ledger, the header first, without changing the file.

    Raises:
        RunError: the file is missing, damaged before its last line, or of another format.
    """
    return read_held(path).events


def read_held(path: Path) -> Held:
    """Returns what a ledger holds, at least its header, without changing the file.

    Raises:
        RunError: as `read_ledger`.
    """
    return _read(path, _log.warning)


def read_header(path: Path) -> Mapping[str, Any]:
    """Returns what the header of a ledger says of the run: whatever must match on resume.

    The whole file is checked; what would be dropped of it is told by those who read the events.

    Raises:
        RunError: as `read_ledger`.
    """
    return _read(path, _log.debug).run


def run_of(events: Sequence[Event]) -> Mapping[str, Any]:
    """Returns what the header says of the run: whatever must match on resume."""
    run: Mapping[str, Any] = events[0]["run"]
    return run


def _read(path: Path, tell: Callable[..., None]) -> Held:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"Cannot read the ledger {path}: {error.strerror}. Name the folder of a search.") from error
    held = _parse(data, path, tell)
    if not held.events:
        raise RunError(f"The ledger {path} is empty: nothing was computed. Start the search anew.")
    return held


class Ledger:
    """A tracker that writes the ledger, alone: a second one for the same file is refused.

    Attributes:
        path: the file.
        events: what it held when it was opened, the header first; replay them into a fresh study.
    """

    def __init__(self, path: Path, *, run: Mapping[str, Any], held: Held | None = None) -> None:
        """Starts a ledger, or opens it to go on with a search.

        Args:
            path: the file; its folder exists.
            run: whatever must match on resume, as JSON values.
            held: what the file holds, where it has been read under the lock of its folder; None reads it here.

        Raises:
            RunError: the file cannot be written, is damaged, is open elsewhere, or belongs to another search.
        """
        self.path = path
        self._broken = False
        try:
            self._file = open_in_place(path, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            raise RunError(f"Cannot open the ledger {path}: {error.strerror}. Choose a folder to write to.") from error
        try:
            self._lock()
            self.events = self._open(
                json.loads(json.dumps(run)), _parse(path.read_bytes(), path) if held is None else held
            )
        except BaseException:
            os.close(self._file)
            raise

    def asked(self, candidate: Candidate) -> None:
        """Writes that a candidate was proposed, or promoted late."""
        self._append(encode_asked(candidate))

    def told(self, outcome: Outcome, *, finished: bool) -> None:
        """Writes what a rung said."""
        self._append(encode_told(outcome, finished=finished))

    def waited(self) -> None:
        """Writes that the strategy had nothing to propose."""
        self._append({"event": "waited"})

    def close(self) -> None:
        """Closes the file, so that another driver may open it. Closing twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            flocked(self._file)
        except BlockingIOError as error:
            raise RunError(
                f"Another process is searching in {self.path.parent}. Wait until it ends, stop it, or choose another "
                "folder with --out."
            ) from error

    def _open(self, run: Mapping[str, Any], held: Held) -> tuple[Event, ...]:
        self._require_size(held.size)
        os.ftruncate(self._file, held.size)
        if not held.events:
            return (self._begin(run),)
        before = held.run
        changed = [key for key in sorted({*run, *before}) if run.get(key) != before.get(key)]
        if changed:
            pairs = ", ".join(f"{key}={_short(before.get(key))} (now {_short(run.get(key))})" for key in changed)
            raise RunError(
                f"The search in {self.path.parent} was started with {pairs}. Resume it with the same options, or "
                "choose another folder with --out."
            )
        return held.events

    def _require_size(self, size: int) -> None:
        """Refuses a file that is shorter than what was read of it: to make it longer would fill it with zeros."""
        found = os.fstat(self._file).st_size
        if found >= size:
            return
        if not found:
            # What opening has made where the file is gone; a search that begins here later must not find it.
            with suppress(OSError):
                self.path.unlink()
        raise RunError(
            f"The ledger {self.path} was {'shortened' if found else 'removed or emptied'} by somebody else after it "
            f"had been read ({found:,} bytes are left of {size:,}). Put it back and resume, or start the search anew "
            "elsewhere."
        )

    def _begin(self, run: Mapping[str, Any]) -> Event:
        """Writes and returns the header; a disk that refuses it is left without the file, as if nothing had begun."""
        header = {"event": "header", "format": FORMAT, WRITER: this_version(), "run": run}
        try:
            self._append(header)
        except BaseException:
            with suppress(OSError):
                self.path.unlink()
            raise
        sync_folder(self.path.parent)
        return header

    def _append(self, event: Event) -> None:
        if self._broken:
            raise RunError(f"The ledger {self.path} is closed to writing after an error. Resume the search.")
        line = encode_line(event)
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            # Half a line may be on the disk. Another one after it would turn it into damage.
            self._broken = True
            raise RunError(
                f"Cannot write the ledger {self.path}: {error.strerror}. Everything before is kept; make room and "
                f"resume with --resume {self.path.parent}."
            ) from error


def encode_line(event: Event) -> bytes:
    """Returns the line of an event, its checksum with it."""
    text = json.dumps(event, allow_nan=False, separators=(",", ":"))
    return f'{text[:-1]},"check":"{_check(text)}"}}\n'.encode()


def encode_asked(candidate: Candidate) -> Event:
    """Returns the event of a proposal."""
    return {
        "event": "asked",
        "id": candidate.id,
        "level": candidate.fidelity.level,
        "widths": list(candidate.structure.widths),
        "proposed_by": candidate.proposed_by,
        "seed": candidate.seed,
        **candidate.cost.known,
    }


def encode_told(outcome: Outcome, *, finished: bool) -> Event:
    """Returns the event of an outcome."""
    level = outcome.candidate.fidelity.level
    event: dict[str, Any] = {
        "event": "told",
        "id": outcome.candidate.id,
        "level": level,
        "next": None if finished else level + 1,
        "worker": outcome.worker,
        "seconds": float(outcome.seconds),
    }
    if isinstance(outcome, Failure):
        return {**event, "failed": outcome.reason}
    metrics = {name: float(value) for name, value in outcome.metrics.items()}
    scores = {"score": float(outcome.score), "accuracy": float(outcome.accuracy)}
    return {**event, **scores, "metrics": metrics, "reused": bool(outcome.reused)}


def decode_told(event: Event, candidate: Candidate) -> Outcome:
    """Returns the outcome of a candidate that an event tells."""
    seconds, worker = event["seconds"], event["worker"]
    if "failed" in event:
        return Failure(candidate, event["failed"], seconds=seconds, worker=worker)
    return Evaluation(
        candidate,
        event["score"],
        event["accuracy"],
        metrics=event["metrics"],
        seconds=seconds,
        worker=worker,
        reused=event["reused"],
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _check(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _parse(data: bytes, path: Path, tell: Callable[..., None] = _log.warning) -> Held:
    """Returns what the bytes of a ledger hold; `tell` hears of lines that are dropped."""
    events: list[Event] = []
    seen: set[bytes] = set()
    whole = 0
    *lines, rest = data.split(b"\n")
    lines += [rest] if rest else []
    for number, line in enumerate(lines, start=1):
        event = _event(line) if number < len(lines) or not rest else None
        if event is None and number == len(lines):
            tell("The last line of the ledger %s is not whole, as a crash leaves it: it is dropped.", path)
            break
        if event is None:
            raise _damaged(number, path)
        _require_ours(event, number, path)
        whole += len(line) + 1
        if line in seen:
            tell("Line %d of the ledger %s repeats an earlier one: it is dropped.", number, path)
            continue
        # A strategy may have nothing to propose any number of times.
        if event["event"] != "waited":
            seen.add(line)
        events.append(event)
    return Held(tuple(events), whole)


def _require_ours(event: Event, number: int, path: Path) -> None:
    if number == 1 and event.get("event") != "header":
        raise RunError(f"{path} is no ledger: its first line is no header. Name the folder of a search.")
    if number == 1:
        require_format(event, reads=FORMAT, where=f"The ledger {path}", remedy="Start the search anew.")
    if not is_event(event):
        raise _damaged(number, path, what="is none that a search writes")


def _damaged(number: int, path: Path, what: str = "is damaged") -> RunError:
    if number == 1:
        return RunError(f"Line 1 of the ledger {path} {what}: nothing can be kept. Start the search anew elsewhere.")
    name = shlex.quote(str(path))
    return RunError(
        f"Line {number} of the ledger {path} {what}. The {number - 1} lines before it are whole: keep them and resume "
        f"from there (head -n {number - 1} {name} > kept && mv kept {name}), or start the search anew elsewhere."
    )


def _event(line: bytes) -> dict[str, Any] | None:
    """Returns the event of one line without its end, or None when the line is not whole."""
    body, found, check = line.rpartition(b',"check":"')
    if not found:
        return None
    try:
        text = body.decode() + "}"
        event = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and check == f'{_check(text)}"}}'.encode() else None
