"""Layers without weights left: what remains of a residual branch whose internal channels have all been removed.

Torch's convolutions and batch norms refuse tensors without channels. These run in their place, so that the forward
that was written for the dense network works on: channels that are gone flow as empty tensors, and the layer that used
to read them puts out its bias, or zero, everywhere. The norm behind it makes a constant of each channel of that, which
is all that such a branch adds. Padding cannot change it: there is nothing to pad.

Parameters keep their names and are empty, except for those that still do something: bias, and the norm behind.
"""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn


class HollowConv2d(nn.Conv2d):
    """A convolution with no input channels, or with no output channels, or with neither."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns (B, out, H', W'): the bias everywhere, in the shape that the convolution would put out."""
        mark(input)
        # Twice a side, the last dimension first; filled for every kind of padding.
        padding = self._reversed_padding_repeated_twice
        extents = [
            (input.shape[2 + dim] + padding[2 - 2 * dim] + padding[3 - 2 * dim] - reach - 1) // self.stride[dim] + 1
            for dim, reach in enumerate(d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
        ]
        shape = (input.shape[0], self.out_channels, *extents)
        if self.bias is None:
            return input.new_zeros(shape)
        # A copy: what follows may write into it.
        return self.bias.reshape(1, -1, 1, 1).expand(shape).clone()


class HollowBatchNorm2d(nn.BatchNorm2d):
    """A batch norm over no channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns the empty input."""
        mark(input)
        return input


_HOLLOW: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: HollowConv2d, nn.BatchNorm2d: HollowBatchNorm2d}


def hollow_out(module: nn.Module) -> None:
    """Makes a layer that has lost all of its weights one that runs without; a layer of another kind stays."""
    hollow = _HOLLOW.get(type(module))
    if hollow is None:
        return
    tensors = chain((module._parameters.get("weight"),), module._buffers.values())
    if any(tensor is not None and tensor.dim() > 0 and tensor.numel() == 0 for tensor in tensors):
        module.__class__ = hollow


def mark(x: Tensor) -> None:
    """Runs a product of nothing with nothing: one recorded operation (`watching.operations`) in place of the layer's.

    Dense and cut network find each other's values by the number of the operation; a layer that ran none would shift
    all numbers behind it. It takes no multiplication and no memory, and exporters drop it.
    """
    nothing = x.new_zeros((0, 0))
    nothing @ nothing
