"""The CCM loss: a term that rewards correlated feature maps while training, so that fewer of them carry the rest.

CCM-LRR (Wang et al. 2023), released code. It shapes a training from scratch and does nothing for a given checkpoint but
by finetuning with it. The code for ResNet-50 computes the term and does not add it.

Notation:
    X       (B, C, H, W)  output of a ReLU
    Y       (C, HW)       mean of X over the batch, less the mean of each row
    r       mean over all C^2 pairs of |<Y_i, Y_j>| / (|Y_i| |Y_j|), in [1 / C, 1]
    lambda  strength: the loss is cross-entropy - lambda * sum of r over the maps
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autoprune.errors import ConfigError, ModelError
from autoprune.training.hooks import Hook, TrainingState

#: Rows that deviate from their mean by less than this share of their size are constant and correlate with nothing.
_CONSTANT = 1e-6
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.GELU, nn.Hardswish)


def mean_correlation(maps: Tensor) -> Tensor:
    """Returns the scalar r of (B, C, H, W) maps, in float32 at least; differentiable.

    The published code divides by the norms as they are, so that one constant channel makes the loss NaN; here
    the pairs of constant rows, the diagonal included, count as 0. Maps of few positions correlate by accident.
    """
    return _correlation(_mean_map(maps))


def _mean_map(maps: Tensor) -> Tensor:
    """Returns (C, HW), the mean over the batch; its backward keeps no tensor."""
    return maps.mean(0, dtype=torch.promote_types(maps.dtype, torch.float32)).flatten(1)


def _correlation(mean: Tensor) -> Tensor:
    # Without autocast: half precision has too few digits for products of normalised rows.
    with torch.autocast(mean.device.type, enabled=False):
        rows = mean - mean.mean(1, keepdim=True)
        squared = rows.square().sum(1)
        # Centring a constant row leaves its rounding, which is no signal either.
        alive = squared > _CONSTANT**2 * mean.square().sum(1)
        # The root is taken of 1 where a row is constant: its gradient at 0 is infinite, and infinity times 0 is NaN.
        unit = rows * torch.where(alive, squared, torch.ones_like(squared)).rsqrt()[:, None] * alive[:, None]
        return (unit @ unit.T).abs().sum() / len(rows) ** 2


class CcmLoss(Hook):
    """Adds -lambda times the summed mean correlation of every feature map to the loss.

    Maps are the four-dimensional outputs of activation modules, each call of a shared module for itself, and besides
    what convolutions read straight off a ReLU that is called as a function. As published, the last activation counts
    where it follows an addition (ResNets: the stem's, relu1 and relu2 of every block) and does not in a plain network
    (VGG-16: 12 of its 13; hidden linear layers have no maps). A ReLU called as a function is missed where a
    concatenation, a pooling or nothing at all follows it. The maps of ResNet-50 that the published code takes (after
    the max pool, the last of a stage's first block twice) are not told apart.

    The published folders are named after lambda 0.01 (VGG-16, ResNet-56) and 0.004 (ResNet-110); the scripts beside
    them say 0.09, 0.0499 and 0.025.

    Args:
        strength: lambda, at least 0.
    """

    def __init__(self, strength: float = 0.01) -> None:
        if not 0 <= strength < float("inf"):
            raise ConfigError(f"The strength of the regulariser ccm is {strength:g}. Write a number of at least 0.")
        self.strength = strength
        self._handles: list[RemovableHandle] = []
        self._means: list[Tensor] = []
        self._seen: list[Tensor] = []
        self._summed = True
        self._sum_ahead = False
        self._trained = False

    def begin(self, state: TrainingState) -> None:
        """Attaches to activations and convolutions."""
        self.end()
        # A backward that runs parts of the forward again, as `torch.utils.checkpoint` does, leaves maps behind.
        self._handles.append(state.model.register_forward_pre_hook(self._start))
        for module in state.model.modules():
            if isinstance(module, _RECTIFIERS):
                self._handles.append(module.register_forward_pre_hook(self._before))
                self._handles.append(module.register_forward_hook(self._after))
            elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                self._handles.append(module.register_forward_pre_hook(self._read))

    def penalty(self) -> Tensor | None:
        """Returns -lambda * sum of r over the maps of the forward that has just run, None if it was no training.

        Raises:
            ModelError: the forward had no maps that count.
        """
        means, trained = self._means if self._summed else self._means[:-1], self._trained
        self._forget()
        if trained and not means:
            raise ModelError(
                "The regulariser ccm has nothing to do: it sees no feature maps (images, channels, height, width) of "
                "the network's activations but the last. Leave it out, or make activations modules, such as nn.ReLU."
            )
        return -self.strength * torch.stack([_correlation(mean) for mean in means]).sum() if means else None

    def end(self) -> None:
        """Detaches."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forget()

    def _forget(self) -> None:
        self._means, self._seen, self._summed, self._trained = [], [], True, False

    def _start(self, model: nn.Module, _inputs: tuple[Any, ...]) -> None:
        self._forget()
        self._trained = model.training and torch.is_grad_enabled()

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # Asked before the activation runs: in place, it takes the addition's name off the tensor.
        if module.training and torch.is_grad_enabled():
            self._sum_ahead = _is_sum(inputs[0])

    def _after(self, module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        if module.training and torch.is_grad_enabled():
            self._add(output, summed=self._sum_ahead)

    def _read(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        rectified = module.training and torch.is_grad_enabled() and _name(x).startswith("Relu")
        if rectified and not any(x is other or x.data_ptr() == other.data_ptr() for other in self._seen):
            # What a convolution reads is not the last map of a plain network.
            self._add(x, summed=True)

    def _add(self, maps: Tensor, *, summed: bool) -> None:
        if maps.dim() == 4:
            self._seen.append(maps)
            # The rest comes when the forward is over: nothing more may be kept for the backward within it.
            self._means.append(_mean_map(maps))
            self._summed = summed


def _name(tensor: Tensor) -> str:
    return "" if tensor.grad_fn is None else tensor.grad_fn.name()


def _is_sum(tensor: Tensor) -> bool:
    return _name(tensor).startswith("Add")
