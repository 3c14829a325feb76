"""The base of everything here that watches a network below Python, operation by operation."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Interpreter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """A dispatch mode that does without torch's compiler.

    By default torch wraps `__torch_dispatch__` to hide it from the compiler, and imports that to do so: 2 CPU seconds
    and 900 modules, in this process and in every worker.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
