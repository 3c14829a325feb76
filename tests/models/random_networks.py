"""Small random networks: a plan is drawn (by hypothesis, which shrinks it), and a network is what the plan says.

A plan is a list of steps on one stream of feature maps (B, c, h, w); where a step needs what the stream does not have
(an even number of channels, a side to halve), it does something simpler instead, so that every plan is a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.models.toy_networks import settled

SHAPE = (3, 8, 8)


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        kind: name of a method of `Steps`.
        width: channels that it makes, where it makes any.
        choice: one of several ways to do it.
    """

    kind: str
    width: int
    choice: int


@dataclass(frozen=True)
class Plan:
    """What a network does.

    Attributes:
        stem: channels of the first convolution.
        steps: in order.
        flatten: whether the head reads every position rather than their mean.
        hidden: features of a hidden linear layer, 0 for none.
    """

    stem: int
    steps: tuple[Step, ...]
    flatten: bool
    hidden: int


KINDS = (
    "convolve", "residual", "projected", "concatenate", "depthwise", "grouped", "repeat", "share", "pad", "chunk",
    "part", "squeeze", "transpose", "pool", "scale", "shuffle", "lengthen", "several", "normalise",
)  # fmt: skip
PLANS = st.builds(
    Plan,
    stem=st.integers(3, 7),
    steps=st.lists(
        st.builds(Step, st.sampled_from(KINDS), st.integers(2, 7), st.integers(0, 3)), min_size=1, max_size=5
    ).map(tuple),
    flatten=st.booleans(),
    hidden=st.sampled_from((0, 0, 5)),
)


def network_of(plan: Plan, seed: int = 0) -> nn.Module:
    """Returns the network of a plan, settled, in float64 and eval mode."""
    torch.manual_seed(seed)
    return settled(RandomNetwork(plan), seed).double()


class RandomNetwork(nn.Module):
    """The network of a plan; layers lie in one dictionary by the numbers of their steps."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.layers = nn.ModuleDict()
        self._making = True
        self.stem = nn.Conv2d(3, plan.stem, 3, padding=1)
        x = self._body(torch.zeros(1, *SHAPE))
        features = x[0].numel() if plan.flatten else x.shape[1]
        self.hidden = nn.Linear(features, plan.hidden) if plan.hidden else None
        self.head = nn.Linear(plan.hidden or features, 3)
        self._making = False

    def forward(self, x: Tensor) -> Tensor:
        x = self._body(x)
        x = torch.flatten(x, 1) if self.plan.flatten else x.mean((2, 3))
        if self.hidden is not None:
            x = torch.relu(self.hidden(x))
        return self.head(x)

    def _body(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for number, step in enumerate(self.plan.steps):
            x = getattr(self, "_" + step.kind)(x, step, f"{number}")
        return x

    def _layer(self, name: str, make: Any) -> nn.Module:
        """Returns the layer of a name; the first forward, of zeros, makes it."""
        if self._making and name not in self.layers:
            self.layers[name] = make()
        return self.layers[name]

    def _conv(self, x: Tensor, name: str, width: int, kernel: int = 3, **options: Any) -> Tensor:
        inputs = x.shape[1]
        conv = self._layer(name, lambda: nn.Conv2d(inputs, width, kernel, padding=kernel // 2, **options))
        return conv(x)

    def _convolve(self, x: Tensor, step: Step, name: str) -> Tensor:
        x = self._conv(x, name, step.width, bias=step.choice > 1)
        norm = self._layer(f"{name}norm", lambda: nn.BatchNorm2d(step.width))
        return functional.gelu(norm(x)) if step.choice % 2 else torch.relu_(norm(x))

    def _residual(self, x: Tensor, step: Step, name: str) -> Tensor:
        inner = torch.relu(self._conv(x, f"{name}in", step.width))
        out = self._conv(inner, f"{name}out", x.shape[1])
        return torch.relu(out + x) if step.choice % 2 else x + out

    def _projected(self, x: Tensor, step: Step, name: str) -> Tensor:
        inner = torch.relu(self._conv(x, f"{name}in", step.width))
        return torch.relu(self._conv(inner, f"{name}out", step.width) + self._conv(x, f"{name}skip", step.width, 1))

    def _concatenate(self, x: Tensor, step: Step, name: str) -> Tensor:
        side = torch.relu(self._conv(x, name, step.width, 1))
        parts = [x, side, x] if step.choice == 3 else [side, x] if step.choice == 2 else [x, side]
        return torch.cat(parts, 1)

    def _depthwise(self, x: Tensor, step: Step, name: str) -> Tensor:
        channels = x.shape[1]
        times = 2 if step.choice == 3 else 1
        conv = self._layer(name, lambda: nn.Conv2d(channels, times * channels, 3, padding=1, groups=channels))
        return functional.silu(conv(x))

    def _grouped(self, x: Tensor, step: Step, name: str) -> Tensor:
        x = torch.relu(self._conv(x, f"{name}even", 2 * step.width, 1))
        return torch.relu(self._conv(x, name, 2 * step.width, groups=2))

    def _repeat(self, x: Tensor, step: Step, name: str) -> Tensor:
        channels = x.shape[1]
        for _ in range(2 + step.choice % 2):
            x = torch.relu(self._conv(x, name, channels))
        return x

    def _share(self, x: Tensor, step: Step, name: str) -> Tensor:
        """Two layers with one weight."""
        left = self._conv(x, f"{name}left", step.width, 1)
        right = self._conv(x, f"{name}right", step.width, 1)
        if self._making:
            self.layers[f"{name}right"].weight = self.layers[f"{name}left"].weight
        return torch.relu(left) * torch.sigmoid(right)

    def _pad(self, x: Tensor, step: Step, name: str) -> Tensor:
        if step.choice < 2:
            return functional.pad(x, (1, 0, 0, 1), mode="reflect" if step.choice else "constant")
        wide = functional.pad(x, (0, 0, 0, 0, 1, 1))
        return wide if step.choice == 2 else wide + self._conv(x, name, wide.shape[1], 1)

    def _chunk(self, x: Tensor, step: Step, name: str) -> Tensor:
        value, gate = self._conv(x, name, 2 * step.width).chunk(2, 1)
        return value * torch.sigmoid(gate) if step.choice % 2 else torch.cat([gate, value], 1)

    def _part(self, x: Tensor, step: Step, name: str) -> Tensor:
        """Slices, and splits of written sizes: what reads them is frozen."""
        x = torch.relu(self._conv(x, name, step.width + 2))
        if step.choice % 2:
            return x[:, :2]
        first, rest = torch.split(x, [2, step.width], 1)
        return torch.cat([rest, first], 1)

    def _squeeze(self, x: Tensor, step: Step, name: str) -> Tensor:
        squeezed = torch.relu(self._conv(x.mean((2, 3), keepdim=True), f"{name}down", step.width, 1))
        return x * torch.sigmoid(self._conv(squeezed, f"{name}up", x.shape[1], 1))

    def _transpose(self, x: Tensor, step: Step, name: str) -> Tensor:
        channels = x.shape[1]
        up = self._layer(name, lambda: nn.ConvTranspose2d(channels, step.width, 3, padding=1))
        return torch.relu(up(x))

    def _pool(self, x: Tensor, step: Step, name: str) -> Tensor:
        if min(x.shape[2:]) < 4:
            return x
        return functional.max_pool2d(x, 2) if step.choice % 2 else functional.avg_pool2d(x, 2)

    def _scale(self, x: Tensor, step: Step, name: str) -> Tensor:
        channels = x.shape[1]
        return self._layer(name, lambda: nn.PReLU(channels))(x)

    def _shuffle(self, x: Tensor, step: Step, name: str) -> Tensor:
        x = torch.relu(self._conv(x, name, 2 * step.width))
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)

    def _lengthen(self, x: Tensor, step: Step, name: str) -> Tensor:
        """Channels last and first again, as token networks do, with a linear layer over them."""
        channels = x.shape[1]
        tokens = x.flatten(2).transpose(1, 2)
        out = torch.relu(self._layer(name, lambda: nn.Linear(channels, step.width))(tokens))
        return out.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])

    def _several(self, x: Tensor, step: Step, name: str) -> Tensor:
        """Takes maps apart and puts them together again: flip, stack, sum, minimum."""
        if step.choice == 0:
            return x.flip(3)
        if step.choice == 1:
            return torch.stack([x, torch.tanh(x)]).sum(0)
        return torch.minimum(x, self._conv(x, name, x.shape[1], 1))

    def _normalise(self, x: Tensor, step: Step, name: str) -> Tensor:
        channels = x.shape[1]
        if step.choice == 0:
            return self._layer(name, lambda: nn.InstanceNorm2d(channels, affine=True))(x)
        if step.choice == 1:
            groups = 2 if channels % 2 == 0 else 1
            return self._layer(name, lambda: nn.GroupNorm(groups, channels))(x)
        return self._layer(name, lambda: nn.BatchNorm2d(channels))(x)
