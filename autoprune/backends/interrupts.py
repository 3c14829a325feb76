"""Ctrl-C and SIGTERM as a request: the search stops where its books are straight, never in the middle of a tell."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """While entered, Ctrl-C or SIGTERM sets `requested`; a second one raises KeyboardInterrupt.

    SIGTERM is what batch systems and containers end a process with.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Attributes:
        requested: whether either came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False
        self._previous: list[tuple[int, Any]] = []

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous.append((number, signal.signal(number, self._hear)))
            if hasattr(signal, "SIGUSR1"):
                # Ray Tune installs a handler here and leaves it behind.
                self._previous.append((signal.SIGUSR1, signal.getsignal(signal.SIGUSR1)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous:
            # None stands for a handler that was not installed from Python and cannot be put back.
            if handler is not None:
                signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, the first Ctrl-C raises KeyboardInterrupt as well: nothing there needs to be finished."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if again or self._at_once:
            raise KeyboardInterrupt
