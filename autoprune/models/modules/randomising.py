"""Random weights that hide nothing: no scale is 1e-6, no shift 0, no norm a unit norm, and no signal dies on its way.

A network as it is built computes little that a wrong cut would change: layer scales start at 1e-6, the last batch norm
of a block at 0, positions and biases at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Smallest variance that a batch norm is given: a dead channel must not become an enormous one.
_SMALLEST_VARIANCE = 1e-4


def randomise(model: nn.Module, *, seed: int) -> None:
    """Replaces parameters all of whose entries are equal by random ones: zeros around 0, others around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            first = parameter.flatten()[:1]
            if parameter.numel() > 1 and bool((parameter == first).all()):
                uniform = torch.rand(parameter.shape, generator=generator)
                parameter.copy_(0.4 * uniform - 0.2 if first.item() == 0 else uniform + 0.5)


class FittedNorms:
    """While it is entered, every batch norm that runs takes the statistics of what it reads for its own."""

    def __init__(self, model: nn.Module) -> None:
        """Prepares the batch norms of a network in eval mode."""
        self._norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> FittedNorms:
        """Begins to fit."""
        self._handles = [norm.register_forward_pre_hook(_fit) for norm in self._norms]
        return self

    def __exit__(self, *_: object) -> None:
        """Ends fitting."""
        for handle in self._handles:
            handle.remove()


def _fit(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    if norm.running_mean is None or norm.running_var is None or inputs[0].numel() == 0:
        return
    dims = [dim for dim in range(inputs[0].dim()) if dim != 1]
    norm.running_mean.copy_(inputs[0].mean(dims))
    norm.running_var.copy_(inputs[0].var(dims, correction=0).clamp_min(_SMALLEST_VARIANCE))
