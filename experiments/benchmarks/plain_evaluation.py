"""One candidate of a CIFAR ResNet evaluated as one would write it down: what `candidate_speed` compares with.

The same steps as autoprune's top rung, in plain PyTorch and for these networks alone: copy, slice, solve layer after
layer on unfolded patches, score in batches. It is given what autoprune prepares once a search: channel orders, sampled
positions, dense targets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

RIDGE = 1e-2
SWEEPS = 2
BATCH = 500


@dataclass(frozen=True, eq=False)
class PlainEvaluator:
    """Evaluates widths of the convolutions inside blocks.

    Attributes:
        model: the dense network.
        orders: per block, channels of its first convolution, the most valuable first.
        targets: {layer: (B, p, o) dense values at the end of its chain}.
        positions: {layer: (B, p) where they were taken}.
        images: (B, C, H, W) for calibration.
        pixels: (N, C, H, W) uint8 hold-out.
        labels: (N,) of it.
        preprocess: makes floats of pixels.
    """

    model: nn.Module
    orders: Sequence[np.ndarray[Any, np.dtype[np.int64]]]
    targets: Mapping[str, Tensor]
    positions: Mapping[str, Tensor]
    images: Tensor
    pixels: Tensor
    labels: Tensor
    preprocess: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def evaluate(self, widths: Sequence[int]) -> dict[str, float]:
        """Returns accuracy and mean probability of the label."""
        small = self.reconstructed(widths)
        logits = torch.cat([small(self.preprocess(block)) for block in self.pixels.split(BATCH)])
        probabilities = logits.double().softmax(1)
        return {
            "accuracy": float((logits.argmax(1) == self.labels).double().mean()),
            "probability": float(probabilities.gather(1, self.labels[:, None]).mean()),
        }

    @torch.no_grad()
    def reconstructed(self, widths: Sequence[int]) -> nn.Module:
        """Returns the cut and reconstructed network."""
        small = copy.deepcopy(self.model).eval()
        blocks = [(f"layer{n}.{i}", b) for n in (1, 2, 3) for i, b in enumerate(small.get_submodule(f"layer{n}"))]
        for (_, block), order, width in zip(blocks, self.orders, widths, strict=True):
            _slice(block, torch.from_numpy(np.sort(order[:width])))
        x = torch.relu(small.bn1(small.conv1(self.images)))
        for number, (name, block) in enumerate(blocks):
            if number > 0:
                self._solve(f"{name}.conv1", block.conv1, block.bn1, x, rectified=True)
            y = torch.relu(block.bn1(block.conv1(x)))
            shortcut = x
            if isinstance(block.downsample, nn.Sequential):
                self._solve(f"{name}.downsample.0", *block.downsample, x, rectified=False)
                shortcut = block.downsample(x)
            self._solve(f"{name}.conv2", block.conv2, block.bn2, y, rectified=True, other=shortcut)
            x = torch.relu(block.bn2(block.conv2(y)) + shortcut)
        features, head = x.mean((2, 3)), small.fc
        ones = torch.cat([features, torch.ones(len(features), 1)], 1)
        start = torch.cat([head.weight.T, head.bias[None]])
        solved = _ridge(ones, self.targets["fc"].flatten(0, 1), start.double())
        head.weight.copy_(solved[:-1].T)
        head.bias.copy_(solved[-1])
        return small

    def _solve(
        self,
        name: str,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d,
        x: Tensor,
        *,
        rectified: bool,
        other: Tensor | None = None,
    ) -> None:
        """Solves a convolution and its batch norm for the dense values at the end of their chain."""
        target, positions = self.targets[name], self.positions[name]
        if target.shape[2] != len(conv.weight):
            target = target[:, :, self._kept(name, len(conv.weight))]
        added = torch.zeros_like(target) if other is None else _sampled(other.flatten(2), positions)
        patches = functional.unfold(x, conv.kernel_size, padding=conv.padding, stride=conv.stride)
        patches = _sampled(patches, positions).flatten(0, 1)
        ones = torch.cat([patches, torch.ones(len(patches), 1)], 1)
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - norm.running_mean.double() * scale
        start = torch.cat([(conv.weight.flatten(1).double() * scale[:, None]).T, shift[None]])
        floor = (-added).flatten(0, 1) if rectified else None
        solved = _ridge(ones, (target - added).flatten(0, 1), start, floor)
        gauge = torch.where(scale.abs() > 1e-2 * scale.abs().median(), scale, torch.ones_like(scale))
        conv.weight.copy_((solved[:-1] / gauge).T.reshape(conv.weight.shape))
        made = conv(x)
        norm.running_mean.copy_(made.mean((0, 2, 3)))
        norm.running_var.copy_(made.var((0, 2, 3)))
        norm.weight.copy_(gauge * (norm.running_var.double() + norm.eps).sqrt())
        norm.bias.copy_(solved[-1] + gauge * norm.running_mean.double())

    def _kept(self, name: str, width: int) -> Tensor:
        names = [layer for layer in self.targets if layer.endswith("conv1") and layer != "conv1"]
        return torch.from_numpy(np.sort(self.orders[names.index(name)][:width]))


def _slice(block: nn.Module, kept: Tensor) -> None:
    first, norm, second = block.conv1, block.bn1, block.conv2
    first.weight = nn.Parameter(first.weight[kept])
    second.weight = nn.Parameter(second.weight[:, kept])
    norm.weight, norm.bias = nn.Parameter(norm.weight[kept]), nn.Parameter(norm.bias[kept])
    norm.running_mean, norm.running_var = norm.running_mean[kept], norm.running_var[kept]
    first.out_channels = second.in_channels = norm.num_features = len(kept)


def _sampled(flat: Tensor, positions: Tensor) -> Tensor:
    """Returns (B, p, n) the values of (B, n, places) at (B, p) positions."""
    return flat.gather(2, positions[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def _ridge(ones: Tensor, target: Tensor, start: Tensor, floor: Tensor | None = None) -> Tensor:
    """Returns the damped least-squares solution; with a floor, of the asymmetric problem behind a ReLU."""
    gram = (ones.T @ ones).double() / len(ones)
    damping = RIDGE * gram.trace() / len(gram)
    gram += damping * torch.eye(len(gram))

    def solved(wanted: Tensor) -> Tensor:
        return torch.linalg.solve(gram, (ones.T @ wanted).double() / len(ones) + damping * start)

    solution = solved(target)
    for _ in range(0 if floor is None else SWEEPS):
        assert floor is not None
        eased = torch.minimum(ones @ solution.float(), floor)
        solution = solved(torch.where(target <= floor, eased, target))
    return solution
