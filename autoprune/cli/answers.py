"""Where the answer of a command goes: alone to stdout where a program reads it, whatever anybody's code prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

#: Where answers go while everything else that is printed goes to stderr.
_kept: list[TextIO] = []


@contextmanager
def kept_alone() -> Iterator[None]:
    """Sends what is printed meanwhile to stderr: networks, data sets and what they import say what they like."""
    stdout = sys.stdout
    _kept.append(stdout)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = stdout
        _kept.pop()


def answer(text: str) -> None:
    """Prints what a program reads."""
    print(text, file=_kept[-1] if _kept else sys.stdout)
