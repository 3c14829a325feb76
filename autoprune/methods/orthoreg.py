"""OrthoReg as a regulariser: the filters of a layer are pushed towards an orthonormal set while training.

OrthoReg 2020 (arXiv 2009.05014), read from the released code: importances of filters that do not resemble each other
add up, so that many can be pruned at once. The published regularised phase is 24 epochs at a learning rate of 0.1 and
one at 0.01; then channels are chosen by `criteria.OrthoFisher`.

Notation:
    P_l   (N_l, d_l)  a convolution's filters, flattened, its bias, if any, as the last column
    G_l   P_l P_l^T, or P_l^T P_l in the first layer and where N_l > d_l, for which P_l P_l^T has not the rank to be I
    a_l   sqrt(size) / sum over layers of it; size is N_l in the first layer, min(N_l, d_l) in the others
    loss  strength * sum_l a_l |G_l - I|_1, every entry counted
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.errors import ConfigError, ModelError
from autoprune.training.hooks import Hook, TrainingState

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(eq=False)
class OrthoReg(Hook):
    """Adds the penalty of every convolution to the loss; linear and transposed layers have none, as in the code.

    The code spells the rule for N_l > d_l out for VGG, MobileNet and ResNets, layer by layer; this one gives the same
    matrices. It departs in two weights a_l: depthwise layers have sqrt(N_l) there, and the shortcuts of ResNets that
    of their block's first layer.

    Attributes:
        strength: of the penalty; 0.01 for VGG and ResNets, 0.001 for MobileNet in the code.
    """

    strength: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ConfigError(
                f"The strength of the regulariser orthoreg is {self.strength!r}. Write a number of at least 0."
            )
        self._layers: list[nn.Module] = []

    def begin(self, state: TrainingState) -> None:
        """Finds the convolutions.

        Raises:
            ModelError: there is none.
        """
        self._layers = [module for module in state.model.modules() if _is_convolution(module)]
        if not self._layers:
            raise ModelError("The regulariser orthoreg has nothing to do: the network has no convolution layer.")

    def penalty(self) -> Tensor:
        """Returns the scalar to add to the loss."""
        return self.strength * orthogonality([filters(layer) for layer in self._layers])

    def end(self) -> None:
        """Forgets the layers."""
        self._layers = []


def _is_convolution(module: nn.Module) -> bool:
    """Returns whether a module is a convolution, also one of TorchScript, which has a class of its own."""
    if isinstance(module, torch.jit.ScriptModule):
        return getattr(module, "original_name", "") in {kind.__name__ for kind in _CONVOLUTIONS}
    return isinstance(module, _CONVOLUTIONS)


def filters(layer: nn.Module) -> Tensor:
    """Returns (N, d) a layer's flattened filters, its bias as the last column."""
    weight, bias = layer.weight, getattr(layer, "bias", None)  # which a traced layer without one lacks
    assert isinstance(weight, Tensor)
    rows = weight.flatten(1)
    return torch.cat([rows, bias[:, None]], dim=1) if isinstance(bias, Tensor) else rows


def orthogonality(layers: list[Tensor]) -> Tensor:
    """Returns sum_l a_l |G_l - I|_1 of (N, d) filters, the network's first layer first."""
    sizes = [math.sqrt(len(layers[0])), *(math.sqrt(min(rows.shape)) for rows in layers[1:])]
    total = torch.zeros((), device=layers[0].device)
    for place, (rows, size) in enumerate(zip(layers, sizes, strict=True)):
        wide = place > 0 and rows.shape[0] <= rows.shape[1]
        gram = rows @ rows.T if wide else rows.T @ rows
        identity = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
        total = total + size / sum(sizes) * (gram - identity).abs().sum()
    return total
