"""The base of everything here that watches a network below Python, operation by operation."""

from __future__ import annotations

from threading import Lock
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _SlowAttention:
    """Keeps torch's fast path of attention off while anybody watches: threads share its switch, and watch at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watching = 0
        self._before = True

    def begin(self) -> None:
        """Puts the fast path off."""
        with self._lock:
            if self._watching == 0:
                self._before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._watching += 1

    def end(self) -> None:
        """Puts the switch where it was, unless others still watch."""
        with self._lock:
            self._watching -= 1
            if self._watching == 0:
                torch.backends.mha.set_fastpath_enabled(self._before)


class Interpreter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """A dispatch mode that does without torch's compiler, and sees attention as the layers that it is made of.

    By default torch wraps `__torch_dispatch__` to hide it from the compiler, and imports that to do so: 2 CPU seconds
    and 900 modules, in this process and in every worker. In eval mode it runs attention as one operation.
    """

    _slow_attention = _SlowAttention()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __enter__(self) -> Self:
        """Begins to watch."""
        super().__enter__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self._slow_attention.begin()
        return self

    def __exit__(self, *raised: Any) -> None:
        """Ends watching."""
        self._slow_attention.end()
        super().__exit__(*raised)  # type: ignore[no-untyped-call]  # likewise
