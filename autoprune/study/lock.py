"""A lock on a run folder: two drivers in one folder would evaluate everything twice and write over each other.

The kernel holds the lock (`flock`) and drops it with the process, however that dies: there is no stale lock to clean
up. Where there is no `flock` (Windows, some network file systems), the file itself is the lock, and one whose process
is gone does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from autoprune.core.files import open_in_place, remove_leftovers, sync_folder
from autoprune.errors import RunError

#: The file in the folder; it goes with the driver unless that is killed, and then it means nothing.
LOCK_NAME = ".lock"


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that works in a folder.

    Attributes:
        pid: its number; None where its file cannot be read.
        host: the machine it runs on.
    """

    pid: int | None
    host: str

    def __str__(self) -> str:
        return f"process {'unknown' if self.pid is None else self.pid} on {self.host}"


class FolderLock:
    """Keeps every other driver out of a folder, which is made if it is missing, until `release` or its process ends."""

    def __init__(self, folder: Path) -> None:
        """Takes the lock.

        Raises:
            RunError: another process holds it, or the folder cannot be written.
        """
        self.folder = folder
        self._path = folder / LOCK_NAME
        self._made = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._made:
                sync_folder(folder.parent)
            self._file = self._take()
        except OSError as error:
            raise RunError(
                f"Cannot make the run folder {str(folder)!r}: {error.strerror or error}. Name another with --out."
            ) from error
        remove_leftovers(folder)

    def release(self) -> None:
        """Gives the lock back, and takes away a folder that it made and that is still empty."""
        if self._file < 0:
            return
        with contextlib.suppress(OSError):
            # While it is held: whoever opened the file meanwhile notices that it is no longer the one in the folder.
            self._path.unlink()
        os.close(self._file)
        self._file = -1
        if self._made:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _take(self) -> int:
        while True:
            descriptor = open_in_place(self._path, os.O_RDWR)
            try:
                if not flocked(descriptor):
                    if _holder(self._path) != _myself():
                        _require_gone(self._path, folder=self.folder)
                elif not _is_in_place(descriptor, self._path):
                    os.close(descriptor)
                    continue
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            except BlockingIOError as error:
                os.close(descriptor)
                raise _taken(self.folder, _holder(self._path)) from error
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor


def flocked(descriptor: int) -> bool:
    """Locks an open file until it is closed; returns whether this system and its file system can.

    Raises:
        BlockingIOError: another open file of the same name has the lock.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        # Some network file systems have no locks.
        return False
    return True


def _is_in_place(descriptor: int, path: Path) -> bool:
    """Returns whether an open file is still the one of that name: its last holder may just have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _require_gone(path: Path, *, folder: Path) -> None:
    """Refuses a lock file whose process lives, or lives on another machine for all that is known."""
    holder = _holder(path)
    if holder is None or (holder.host == socket.gethostname() and not _is_alive(holder.pid)):
        return
    raise _taken(folder, holder, f" If that process is gone, remove {path}.")


def _taken(folder: Path, holder: Holder | None, more: str = "") -> RunError:
    who = "Another process" if holder is None else f"Another process ({holder})"
    return RunError(
        f"{who} is at work in {str(folder)!r}. Wait until it ends, stop it, or choose another folder with --out.{more}"
    )


def _holder(path: Path) -> Holder | None:
    """Returns what a lock file says, None where it is empty or says nothing that makes sense."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("host"), str):
        return None
    pid = content.get("pid")
    known = isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 1 << 31
    return Holder(pid if known else None, "".join(c for c in content["host"][:80] if c.isprintable()))


def _myself() -> Holder:
    return Holder(os.getpid(), socket.gethostname())


def _is_alive(pid: int | None) -> bool:
    if pid is None:
        return False
    if sys.platform == "win32":  # there `os.kill` would end the process
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)
        return bool(handle and ctypes.windll.kernel32.CloseHandle(handle))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
