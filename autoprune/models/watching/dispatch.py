"""The base of everything here that watches a network below Python, operation by operation."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Interpreter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """A dispatch mode that does without torch's compiler, and sees attention as the layers that it is made of.

    By default torch wraps `__torch_dispatch__` to hide it from the compiler, and imports that to do so: 2 CPU seconds
    and 900 modules, in this process and in every worker. In eval mode it runs attention as one operation.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __enter__(self) -> Self:
        """Begins to watch."""
        self._fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        super().__enter__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return self

    def __exit__(self, *raised: Any) -> None:
        """Ends watching."""
        super().__exit__(*raised)  # type: ignore[no-untyped-call]  # likewise
        torch.backends.mha.set_fastpath_enabled(self._fast_path)
