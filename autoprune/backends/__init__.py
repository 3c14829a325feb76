"""Carry candidates to evaluators: in this process, or on Ray Tune workers.

Ray takes seconds to import, so `RayBackend` is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoprune.backends.serial import SerialBackend
from autoprune.errors import BackendError

if TYPE_CHECKING:
    from autoprune.backends.ray_tune import RayBackend

__all__ = ["RayBackend", "SerialBackend"]


def __getattr__(name: str) -> Any:
    if name != "RayBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from autoprune.backends.ray_tune import RayBackend
    except ImportError as error:
        raise BackendError(
            f"Ray Tune cannot be imported ({error}). Install 'ray[tune]' or use --backend serial."
        ) from error
    return RayBackend
