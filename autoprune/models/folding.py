"""Networks made ready to be scored: batch norms folded into the convolutions in front of them, and run no more.

What is left computes the same numbers, but for rounding, with half of the passes over memory. It is for scoring only:
one gradient step on folded weights ruins a reconstructed network (see `models.reconstruction`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.models.network import TracedNetwork
from autoprune.models.surgery import replicate
from autoprune.tasks.detectors import raw_outputs

#: Largest deviation of folded outputs from those before, relative to the largest output; rounding makes 1e-6 of it.
_TOLERANCE = 1e-4


class PassingNorm2d(nn.BatchNorm2d):
    """A batch norm whose scale and shift are in the convolution in front of it."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns the input."""
        return input


@torch.no_grad()
def fold_norms(model: nn.Module, network: TracedNetwork) -> nn.Module:
    """Folds, in place, every batch norm that alone reads a convolution into it; returns the model.

    Args:
        model: in eval mode: the dense network or a cut one, with tensors that may be written to.
        network: its trace.
    """
    for conv, norm in _pairs(model, network):
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
        bias = mean.new_zeros(len(mean)) if conv.bias is None else conv.bias
        shift = (bias.double() - mean.double()) * scale + norm.bias.double()
        conv.weight.copy_(conv.weight.double() * scale.view(-1, 1, 1, 1))
        conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
        norm.__class__ = PassingNorm2d
    return model


def _pairs(model: nn.Module, network: TracedNetwork) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    modules = dict(model.named_modules(remove_duplicate=False))
    for call in network.calls:
        if call.norm is None or call.reused or call.norm in network.repeated_norms:
            continue
        conv, norm = modules.get(call.layer), modules.get(call.norm.rpartition(".")[0])
        # Of another class, they may do anything else as well: a weight norm, a layer whose channels are all gone.
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats:
            yield conv, norm


@torch.no_grad()
def folds_truly(
    model: nn.Module, network: TracedNetwork, images: Tensor, *, layout: torch.memory_format = torch.contiguous_format
) -> bool:
    """Returns whether a copy of the dense network with folded norms, run in a memory layout, puts out what it does.

    It does not where a forward reads weights past their layers, or views channels where they no longer lie together.

    Args:
        model: the dense network, in eval mode.
        network: its trace.
        images: (B, C, H, W) a few, on its device.
        layout: of images and weights.
    """
    folded = fold_norms(replicate(model, {}, {}), network).to(memory_format=layout)
    wanted = tree_leaves(raw_outputs(model, images))
    try:
        found = tree_leaves(raw_outputs(folded, images.contiguous(memory_format=layout)))
    except RuntimeError:
        return False
    return len(found) == len(wanted) and all(map(_alike, found, wanted))


def _alike(found: object, wanted: object) -> bool:
    if not isinstance(found, Tensor) or not isinstance(wanted, Tensor) or found.shape != wanted.shape:
        return False
    return found.numel() == 0 or bool((found - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())
