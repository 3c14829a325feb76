"""What a network puts out beside its answer while it is trained: the answers of auxiliary heads."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def answers(outputs: object, *, training: bool, name: str) -> tuple[object, tuple[Tensor, ...]]:
    """Returns a network's answer, and those of its auxiliary heads.

    In training a tuple or list starts with the answer, as torchvision's GoogLeNet and Inception v3 return it, and as
    networks with deep supervision do. In eval mode, when no such head runs, it is no answer.

    Args:
        outputs: of the network.
        training: whether it is in training mode.
        name: of the answer in a mapping, in which those of auxiliary heads start with `aux`.
    """
    if isinstance(outputs, Mapping):
        rest = [item for key, item in outputs.items() if str(key).startswith("aux")] if training else []
        main = outputs.get(name, outputs)
    elif training and isinstance(outputs, tuple | list) and outputs:
        main, *rest = outputs
    else:
        return outputs, ()
    return main, tuple(item for item in rest if isinstance(item, Tensor) and _alike(item, main))


def _alike(item: Tensor, main: object) -> bool:
    """Returns whether a tensor says as much of as many images as the answer does: features do not."""
    return isinstance(main, Tensor) and item.ndim == main.ndim and item.shape[:2] == main.shape[:2]
