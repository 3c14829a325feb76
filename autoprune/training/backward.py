"""What a backward pass says of a forward that leaves nothing to go back on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autoprune.errors import ModelError


@contextmanager
def overwriting_named(instead: str) -> Iterator[None]:
    """Runs a backward pass in which torch's error about an operation in place becomes one line on the forward.

    Args:
        instead: what else the user can do.

    Raises:
        ModelError: the forward overwrites in place what the backward needs.
    """
    try:
        yield
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        raise ModelError(
            "The network has no gradients: its forward overwrites in place what the backward needs. Write "
            f"`x = torch.relu(x)` for `x.relu_()` there, or {instead}."
        ) from error
