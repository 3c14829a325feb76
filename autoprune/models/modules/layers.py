"""Layers that the shipped families and cut networks need and that torch does not have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class ChannelMap(nn.Module):
    """Picks, repeats, reorders or zero-fills channels: output channel j is `x[:, source[j]]`, or 0 where that is -1.

    The parameter-free shortcut of the CIFAR ResNets (option A) is a run of channels between zeros; a cut one keeps
    arbitrary channels of both. Nothing of it is in the state dict.

    Attributes:
        source: for every output channel the input channel it copies, or -1 for zeros.
        in_channels: channels of the input.
        out_channels: `len(source)`.
    """

    index: Tensor

    def __init__(self, source: Sequence[int], in_channels: int) -> None:
        """Makes the map.

        Raises:
            ValueError: a source lies outside [-1, in_channels).
        """
        super().__init__()
        self.source = tuple(int(channel) for channel in source)
        self.in_channels = in_channels
        self.out_channels = len(self.source)
        if any(not -1 <= channel < in_channels for channel in self.source):
            raise ValueError(f"A channel map over {in_channels} channels has a source outside [-1, {in_channels - 1}].")
        # Zeros are read from one channel appended behind the input.
        index = [in_channels if channel < 0 else channel for channel in self.source]
        self.register_buffer("index", torch.tensor(index, dtype=torch.int64), persistent=False)
        self._run = _padded_run(self.source)
        self._has_zeros = -1 in self.source

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, len(source), *) channels of x (B, in_channels, *)."""
        other_axes = [0, 0] * (x.ndim - 2)
        if self._run is not None:
            before, first, last, after = self._run
            return functional.pad(x[:, first:last], [*other_axes, before, after])
        if self._has_zeros:
            x = functional.pad(x, [*other_axes, 0, 1])
        return x.index_select(1, self.index)

    def extra_repr(self) -> str:
        """Returns what `print(model)` shows in the parentheses."""
        return f"{self.in_channels} -> {self.out_channels}, zeros={self.source.count(-1)}"


def _padded_run(source: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Returns (zeros before, first, last + 1, zeros after) if the sources are one run between zeros, else None.

    For example (-1, 4, 5, 6, -1, -1) gives (1, 4, 7, 2).
    """
    filled = [position for position, channel in enumerate(source) if channel >= 0]
    if not filled:
        return None
    start, stop = filled[0], filled[-1] + 1
    first, last = source[start], source[start] + stop - start
    if source[start:stop] != tuple(range(first, last)):
        return None
    return start, first, last, len(source) - stop
