"""What a network puts out beside its answer while it is trained: the answers of auxiliary heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor


def answers(
    outputs: object, *, training: bool, name: str, sure: Collection[str] = ()
) -> tuple[object, tuple[Tensor, ...]]:
    """Returns a network's answer, and those of its auxiliary heads.

    In training a tuple or list starts with the answer, as torchvision's GoogLeNet and Inception v3 return it, and as
    networks with deep supervision do. In eval mode, when no such head runs, it is no answer.

    The answer is what it is; the others are tensors (n, classes, *) like it, of whatever number of classes if `sure`.

    Args:
        outputs: of the network on n images.
        training: whether it is in training mode.
        name: of the answer in a mapping, in which those of auxiliary heads start with `aux`.
        sure: names of those that are answers of as many images whatever number of classes they have.
    """
    known: list[object] = []
    if isinstance(outputs, Mapping):
        rest = [item for key, item in outputs.items() if str(key).startswith("aux")] if training else []
        known = [outputs[key] for key in sure if key in outputs]
        main = outputs.get(name, outputs)
    elif training and isinstance(outputs, tuple | list) and outputs:
        main, *rest = outputs
    else:
        return outputs, ()
    fitting = (
        item
        for item in rest
        if isinstance(item, Tensor) and _alike(item, main, dims=1 if any(item is other for other in known) else 2)
    )
    return main, tuple(fitting)


def _alike(item: Tensor, main: object, *, dims: int) -> bool:
    """Returns whether a tensor says as much of as many images as the answer does: features do not."""
    return isinstance(main, Tensor) and item.ndim == main.ndim and item.shape[:dims] == main.shape[:dims]
