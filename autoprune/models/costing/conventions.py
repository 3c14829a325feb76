"""Counts a network as published tables do, for they disagree on what counts beside multiply-accumulates.

"FLOPs" in tables of pruning papers are multiply-accumulates of convolutions and linear layers; some add what their
counting tool charges for batch norm and pooling. On CIFAR-10 ResNet-56 that is 125.49, 126.55 or 127.62 M for one
network. Percentages move by less than a point between conventions, absolute figures by up to 2 %.

Notation:
    element     one value of a batch norm's input, of one image
    window      positions that one output of an average pooling reads
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.cost import Cost
from autoprune.errors import ConfigError, nearest
from autoprune.models.costing.counting import count
from autoprune.models.watching.dispatch import Interpreter
from autoprune.models.watching.operations import NORMS
from autoprune.tasks.detectors import raw_outputs

#: Name: (charge per batch-norm element, whether average pooling counts, who counts so).
CONVENTIONS: dict[str, tuple[int, bool, str]] = {
    "conv+fc": (0, False, "convolutions and linear layers alone: HRank, CHIP, autoprune"),
    "+2/bn": (2, False, "two per batch-norm element: CLR-RNF"),
    "+4/bn": (4, False, "four per batch-norm element: ACP; CCM-LRR where the network pools by no module (VGG-16)"),
    "+4/bn+pool": (4, True, "besides, window + 1 per output of an average pooling: CCM-LRR (ResNets), old thop"),
}


@dataclass(frozen=True, slots=True)
class Tally:
    """What conventions charge for, of one image.

    Attributes:
        macs: multiply-accumulates of convolutions and linear layers.
        params: parameters.
        norm_elements: inputs of all batch norms, those of hidden linear layers included.
        pooling: sum over average poolings of outputs times (window + 1); windows of one position are subsampling.
    """

    macs: int
    params: int
    norm_elements: int
    pooling: int

    def by_convention(self) -> dict[str, int]:
        """Returns {convention: count}, in the order of `CONVENTIONS`."""
        return {
            name: self.macs + charge * self.norm_elements + (self.pooling if pools else 0)
            for name, (charge, pools, _) in CONVENTIONS.items()
        }


def require_convention(name: str) -> None:
    """Raises ConfigError unless the name is a convention or `all`."""
    if name != "all" and name not in CONVENTIONS:
        raise ConfigError(f"Unknown counting convention {name!r}.{nearest(name, ('all', *CONVENTIONS))}")


class _NormCounter(Interpreter):
    """Adds up the elements that batch norms read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name in NORMS:
            self.elements += args[0].numel()
        return func(*args, **(kwargs or {}))


def tally(model: nn.Module, shape: tuple[int, ...]) -> Tally:
    """Returns what is to be charged for, counted on a real forward pass.

    Args:
        model: the network, in eval mode.
        shape: (1, C, H, W) of the image.
    """
    cost: Cost = count(model, shape)
    pooling = 0

    def charge(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal pooling
        window = _window(module, inputs[0], output)
        pooling += output.numel() * (window + 1) if window > 1 else 0

    kinds = nn.AvgPool2d | nn.AdaptiveAvgPool2d
    handles = [module.register_forward_hook(charge) for module in model.modules() if isinstance(module, kinds)]
    device = next(iter(model.parameters())).device
    counter = _NormCounter()
    try:
        with torch.no_grad(), counter:
            raw_outputs(model, torch.zeros(shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return Tally(cost.macs, cost.params, counter.elements, pooling)


def _window(module: nn.Module, read: Tensor, output: Tensor) -> int:
    """Returns how many positions one output of an average pooling reads."""
    if isinstance(module, nn.AvgPool2d):
        size = module.kernel_size
        return size * size if isinstance(size, int) else size[0] * size[1]
    # Adaptive windows may differ by a position; tools divide the extents, and so do we.
    return (read.shape[-2] // output.shape[-2]) * (read.shape[-1] // output.shape[-1])
