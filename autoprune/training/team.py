"""Several processes that train one network: each takes its share of every batch, and gradients are averaged.

The processes have been joined by `torch.distributed` before; who started them does not matter here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoprune.data.images import IntArray
from autoprune.devices import is_gpu


@dataclass(frozen=True, slots=True)
class Team:
    """One process among `size`; the one of rank 0 leads: it measures, tells and writes checkpoints.

    A step is the step of one process on the whole batch, but for rounding, where the loss is a mean over images.
    Batch norms see a share of the batch each; their running statistics are the leader's.
    """

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def share(self, positions: IntArray) -> IntArray:
        """Returns this process's part of a batch; a batch smaller than the team leaves nobody without an image."""
        return positions[self.rank :: self.size] if len(positions) >= self.size else positions

    def joined(self, model: nn.Module, device: torch.device, *, idle: Collection[str] = ()) -> nn.Module:
        """Returns the network whose backward averages gradients over the team; it starts from the leader's weights.

        Args:
            model: as it is on every process.
            device: that it is on.
            idle: names of the parameters that are trained but get no gradient at any step: none is waited for.
        """
        from torch.nn.parallel import DistributedDataParallel

        # `find_unused_parameters` finds what no output depends on, and still waits for the gradients of outputs that no
        # loss reads; a static graph does so, too.
        waiting = [model.get_parameter(name) for name in idle]
        for parameter in waiting:
            parameter.requires_grad_(False)
        try:
            return DistributedDataParallel(model, device_ids=[device] if is_gpu(device) else None)
        finally:
            for parameter in waiting:
                parameter.requires_grad_(True)

    def of_the_leader(self, value: Any) -> Any:
        """Returns what the leader gives."""
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]
