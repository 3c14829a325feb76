"""Regularisers by name: hooks that add a term to the loss of a training that prunes nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.errors import ConfigError, nearest
from autoprune.plugins import resolve_attribute
from autoprune.training.hooks import Hook

REGULARISERS: Mapping[str, str] = {
    "ccm": "autoprune.methods.ccm_loss:CcmLoss",
    "orthoreg": "autoprune.methods.orthoreg:OrthoReg",
}


def make_regulariser(name: str, strength: float | None = None) -> Hook:
    """Returns the hook of a regulariser.

    Args:
        name: one of `REGULARISERS`.
        strength: factor of the term; None for the regulariser's own.

    Raises:
        ConfigError: the name is unknown, or the strength is of no use.
    """
    if name not in REGULARISERS:
        raise ConfigError(f"Unknown regulariser {name!r}.{nearest(name, REGULARISERS)}")
    kind: Any = resolve_attribute(REGULARISERS[name])
    made: Hook = kind() if strength is None else kind(strength=strength)
    return made
