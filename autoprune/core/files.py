"""Files that are whole or absent: written beside their place, synced, then renamed into it; and their versions."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoprune.core.versions import version_of
from autoprune.errors import NotAFileError, RunError

Writer = Callable[[Path], object]

_SUFFIX = ".tmp"
#: Links that are followed one after another, as many as Linux does (path_resolution(7)).
_LINKS = 40
_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
#: The key beside `format` under which a file names the version of autoprune that wrote it.
WRITER = "autoprune"


def write_whole(path: Path, write: Writer) -> None:
    """Replaces a file by what `write` puts into the path that it is given, or leaves the old one as it was.

    Raises:
        OSError: the disk is full, the folder is missing, or writing is not allowed.
    """
    write_together({path: write})


def write_together(files: Mapping[Path, Writer]) -> None:
    """Replaces files of one folder that belong together; all are on the disk before the first takes its place.

    The last one vouches for the others: it is taken away before they change and comes back when all of them have.

    Raises:
        OSError: the disk is full, the folder is missing, or writing is not allowed; the old files are as they were.
            Only where a rename itself fails is the last one gone, so that nothing vouches for the rest.
    """
    for path in files:
        require_file(path)
    staged: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            staged[path] = _made_beside(path)
            usual = stat.S_IMODE(staged[path].stat().st_mode)
            write(staged[path])
            _sync(staged[path], mode=usual)
        *first, last = staged
        if first:
            last.unlink(missing_ok=True)
            sync_folder(last.parent)
        for path, temporary in staged.items():
            os.replace(temporary, path)
    except BaseException:
        for temporary in staged.values():
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise
    sync_folder(last.parent)


def require_file(path: Path) -> None:
    """Refuses a device or a pipe: a rename would take its place, and a reader of /dev/full never comes to its end.

    So are links on whose way the system's own ones lie: /dev/stdout is one to whatever a process writes to.

    Raises:
        NotAFileError: it is one.
    """
    if (path.exists() and not path.is_file() and not path.is_dir()) or _is_the_systems(path):
        raise NotAFileError


def _is_the_systems(path: Path) -> bool:
    """Returns whether a path, or a link on its way, lies in /proc or right in /dev; /dev/shm is for anybody."""
    for _ in range(_LINKS):
        folder = path.parent.resolve()
        if folder in (Path("/dev"), Path("/dev/fd")) or folder.is_relative_to("/proc"):
            return True
        if not path.is_symlink():
            break
        path = folder / path.readlink()
    return False


def open_in_place(path: Path, flags: int) -> int:
    """Returns the descriptor of a file that is written where it lies, made if it is missing.

    A link is refused: a run folder that came from others could make us write over any file of ours.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0), 0o644)


def require_inside(path: Path, folder: Path) -> None:
    """Checks that what is to be written into a folder lies there, and not where a link points.

    Raises:
        RunError: it lies elsewhere.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RunError(f"{path} is a link to a place outside {str(folder)!r}. Remove it, or name another folder.")


def remove_leftovers(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder that nobody else writes to."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _LEFTOVER.fullmatch(path.name) and path.is_file():
                path.unlink()


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Replaces a file's content, or leaves the old one as it was.

    Raises:
        RunError: the disk is full, the folder is missing, or writing is not allowed.
    """
    try:
        write_whole(path, lambda place: place.write_bytes(data))
    except OSError as error:
        raise cannot_write(path, error) from error


def atomic_write_text(path: Path, text: str) -> None:
    """Replaces a file's content by UTF-8 text, or leaves the old one as it was.

    Raises:
        RunError: the disk is full, the folder is missing, or writing is not allowed.
    """
    # A group name may hold a lone surrogate, which UTF-8 cannot carry.
    atomic_write_bytes(path, text.encode("utf-8", errors="replace"))


def cannot_write(path: Path, error: OSError) -> RunError:
    """Returns the error that tells of a file which could not be written."""
    if isinstance(error, NotAFileError):
        return RunError(f"Cannot write {path}: {error.strerror}. Name another place with --out.")
    return RunError(
        f"Cannot write {path}: {error.strerror or error}. Free space or give another folder with --out; "
        "what was written before is intact."
    )


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def this_version() -> str | None:
    """Returns the version of autoprune, None where it is not installed."""
    return version_of("autoprune")


def require_format(content: Mapping[str, Any], *, reads: int, where: str, remedy: str) -> None:
    """Checks the `format` of a file's content.

    Args:
        content: of the file; `autoprune`, or `versions` with that key, names the version that wrote it.
        reads: the format that this version reads.
        where: the file, to begin the message with.
        remedy: what to do about an older or an unreadable one.

    Raises:
        RunError: it is another; of a newer one the message says which autoprune reads it.
    """
    found = content.get("format")
    if type(found) is int and found == reads:
        return
    if type(found) is not int or found < reads:
        raise RunError(f"{where} has format {found!r}; this version reads {reads}. {remedy}")
    versions = content.get("versions")
    writer = content.get(WRITER) or (versions.get(WRITER) if isinstance(versions, Mapping) else None)
    needed = f"autoprune {writer} or newer" if isinstance(writer, str) and len(writer) < 40 else "a newer autoprune"
    raise RunError(
        f"{where} has format {found}; this version reads {reads} (autoprune {this_version() or 'unknown'}). "
        f"It needs {needed}: pip install --upgrade autoprune."
    )


def _sync(path: Path, *, mode: int) -> None:
    """Brings a file onto the disk; any descriptor will do, and some libraries write by name alone.

    safetensors puts a file of its own in the place, which only the owner may read: the permissions are given again.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.chmod(path, mode)


def _made_beside(path: Path) -> Path:
    """Returns a new empty file of the same folder that the system gave the usual permissions.

    `tempfile` makes it for the owner alone, and the mask that says what is usual can only be read by setting it, which
    every other thread would feel.
    """
    while True:
        place = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return place
