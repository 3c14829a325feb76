"""Small networks, one per way in which channels can be tied; each takes (B, 3, 12, 12) images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from autoprune.models.modules.layers import ChannelMap
from tests.models.attention_networks import ATTENTION_NETWORKS

SHAPE = (3, 12, 12)


def unit(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """Convolution, batch norm, ReLU in place."""
    options.setdefault("padding", kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU(True)
    )


class Toy(nn.Module):
    """A body of (B, c, *) features, pooled and classified."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, 5)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x).mean((2, 3)))


class Chain(Toy):
    def __init__(self, body: nn.Module, features: int) -> None:
        super().__init__(features)
        self.layers = body

    def body(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Block(nn.Module):
    """A basic residual block; option B, option A through a `ChannelMap`, or zero padding in the forward."""

    def __init__(self, inputs: int, outputs: int, stride: int, option: str = "b") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.widen, self.option = stride, outputs - inputs, option
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs and option == "b":
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        elif inputs != outputs and option == "a":
            before = self.widen // 2
            source = [-1] * before + list(range(inputs)) + [-1] * (self.widen - before)
            self.shortcut = ChannelMap(source, inputs)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.option != "b" and self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.option == "pad" and self.widen:
            x = functional.pad(x, (0, 0, 0, 0, self.widen // 2, self.widen - self.widen // 2))
        out += self.shortcut(x)
        return torch.relu_(out)


def residual(option: str) -> Toy:
    return Chain(nn.Sequential(unit(3, 6), Block(6, 6, 1, option), Block(6, 10, 2, option), Block(10, 10, 1)), 10)


class Concat(Toy):
    def __init__(self) -> None:
        super().__init__(9)
        self.stem, self.left, self.right, self.last = unit(3, 6), unit(6, 4, 1), unit(6, 7), unit(17, 9)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(torch.cat([self.left(x), x, self.right(x)], 1))


class Dense(Toy):
    """Pre-activation blocks that append their output: norms see concatenations."""

    def __init__(self) -> None:
        super().__init__(18)
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * step) for step in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * step, 4, 3, padding=1, bias=False) for step in range(3))

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        return torch.relu(self.norms[-1](x))


class SqueezeExcite(Toy):
    def __init__(self) -> None:
        super().__init__(8)
        self.stem, self.last = unit(3, 8), unit(8, 8)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.up(torch.relu(self.down(functional.adaptive_avg_pool2d(x, 1)))))
        return self.last(x * gate)


class Gated(Toy):
    """Halves of one convolution, computed from its width, multiplied."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.both, self.last = unit(3, 6), nn.Conv2d(6, 16, 3, padding=1), unit(8, 6)

    def body(self, x: Tensor) -> Tensor:
        value, gate = self.both(self.stem(x)).chunk(2, 1)
        return self.last(value * torch.sigmoid(gate))


class FixedSplit(Toy):
    """A split whose sizes are written into the forward, between layers that can be cut."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.both, self.last = unit(3, 6), nn.Conv2d(6, 8, 3, padding=1), unit(4, 6)

    def body(self, x: Tensor) -> Tensor:
        value, gate = torch.split(self.both(self.stem(x)), 4, 1)
        return self.last(value * torch.sigmoid(gate))


class FixedView(Toy):
    """A view that names the number of channels."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.middle, self.last = unit(3, 6), unit(6, 8), unit(8, 6)

    def body(self, x: Tensor) -> Tensor:
        x = self.middle(self.stem(x))
        return self.last(x.reshape(x.shape[0], 8, *x.shape[2:]) * 2)


class Slice(Toy):
    """One layer reads the first channels of another only."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.middle, self.last = unit(3, 6), unit(6, 8), unit(5, 6)

    def body(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.stem(x))[:, :5])


class Shuffle(Toy):
    """Grouped convolutions with a channel shuffle between them."""

    def __init__(self) -> None:
        super().__init__(12)
        self.stem, self.first = unit(3, 8), unit(8, 12, groups=4)
        self.second, self.last = unit(12, 12, groups=4), unit(12, 12)

    def body(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        batch, channels, height, width = x.shape
        x = x.view(batch, 4, channels // 4, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.last(self.second(x))


class Reused(Toy):
    """One convolution and one norm run twice, and two layers share a weight."""

    def __init__(self) -> None:
        super().__init__(7)
        self.stem, self.again, self.norm = unit(3, 7), nn.Conv2d(7, 7, 3, padding=1), nn.BatchNorm2d(7)
        self.left, self.right = nn.Conv2d(7, 5, 1), nn.Conv2d(7, 5, 1)
        self.right.weight = self.left.weight
        self.join = nn.Conv2d(5, 7, 1)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.norm(self.again(x)))
        x = torch.relu(self.norm(self.again(x)))
        return torch.relu(self.join(torch.relu(self.left(x)) + self.right(x)))


class Flatten(nn.Module):
    """A plain network without batch norm that flattens a map into linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.hidden, self.norm, self.out = nn.Linear(72, 11), nn.BatchNorm1d(11), nn.Linear(11, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.out(torch.relu(self.norm(self.hidden(torch.flatten(x, 1)))))


class UNet(Toy):
    """Down, up by a transposed convolution and by resizing, with a skipped concatenation."""

    def __init__(self) -> None:
        super().__init__(5)
        self.down, self.deep = unit(3, 6), unit(6, 8, stride=2)
        self.up, self.last = nn.ConvTranspose2d(8, 7, 2, stride=2), unit(21, 5)

    def body(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        deep = self.deep(functional.max_pool2d(skip, 1))
        return self.last(torch.cat([skip, torch.relu(self.up(deep)), functional.interpolate(deep, scale_factor=2)], 1))


class Heads(nn.Module):
    """Several outputs in a dictionary, and an if on a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = unit(3, 6), unit(6, 8)
        self.small, self.large = nn.Linear(6, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        if x.shape[-1] % 2:
            x = functional.pad(x, (0, 1))
        x = self.stem(x)
        deep = self.body(functional.avg_pool2d(x, 2) if x.shape[-1] > 6 else x)
        return {"small": self.small(x.mean((2, 3))), "rest": [self.large(deep.amax((2, 3)))]}


class Functional(Toy):
    """Weights held by the network itself and used through functions."""

    def __init__(self) -> None:
        super().__init__(6)
        self.first = nn.Parameter(torch.randn(7, 3, 3, 3) / 5)
        self.second = nn.Parameter(torch.randn(6, 7, 3, 3) / 8)
        self.bias = nn.Parameter(torch.randn(6))
        self.scale = nn.Parameter(torch.rand(7, 1, 1) + 0.5)
        self.slope = nn.PReLU(7)
        self.matrix = nn.Parameter(torch.randn(6, 6) / 2)

    def body(self, x: Tensor) -> Tensor:
        x = self.slope(functional.conv2d(x, self.first, padding=1) * self.scale)
        return torch.relu(functional.conv2d(x, self.second, self.bias, stride=2, dilation=2))

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.relu(self.body(x).mean((2, 3)) @ self.matrix))


class Tokens(nn.Module):
    """Linear layers over positions, as in patch mixers; `sequence_first` puts positions before images."""

    def __init__(self, *, sequence_first: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 3, stride=3)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 4)
        self.sequence_first = sequence_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2)
        x = x.permute(2, 0, 1) if self.sequence_first else x.transpose(1, 2)
        x = x + self.down(functional.gelu(self.up(self.norm(x))))
        return self.head(x.mean(0 if self.sequence_first else 1))


class Paddings(Toy):
    """String, circular, reflecting and asymmetric paddings."""

    def __init__(self) -> None:
        super().__init__(5)
        self.same = nn.Conv2d(3, 6, 3, padding="same")
        self.even = nn.Conv2d(6, 6, 4, padding="same", dilation=2)
        self.reflect = nn.Conv2d(6, 7, 3, padding=1, padding_mode="reflect")
        self.circular = nn.Conv2d(7, 6, 3, padding=1, padding_mode="circular")
        self.last = nn.Conv2d(6, 5, (3, 1), stride=(1, 2), padding=(1, 0))

    def body(self, x: Tensor) -> Tensor:
        for layer in (self.same, self.even, self.reflect, self.circular, self.last):
            x = torch.relu(layer(x))
        return x


class PixelShuffle(Toy):
    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.wide, self.last = unit(3, 6), unit(6, 20), unit(5, 6)

    def body(self, x: Tensor) -> Tensor:
        return self.last(functional.pixel_shuffle(self.wide(self.stem(x)), 2))


class Attention(Toy):
    """A map of one channel that weighs every channel of another."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.gate, self.last = unit(3, 8), nn.Conv2d(8, 1, 3, padding=1), unit(8, 6)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(x * torch.sigmoid(self.gate(x)))


class Computed(Toy):
    """A weight that is computed in the forward, between layers that can be cut."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.last = unit(3, 6), unit(7, 6)
        self.middle = parametrizations.weight_norm(nn.Conv2d(6, 7, 3, padding=1))
        self.after = unit(6, 6)

    def body(self, x: Tensor) -> Tensor:
        return self.after(self.last(torch.relu(self.middle(self.stem(x)))))


class ComputedMatrices(Toy):
    """Linear layers and convolutions whose weights are computed in the forward."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.next, self.narrow = unit(3, 7), unit(7, 6), nn.Conv2d(6, 6, 1)
        self.wide = nn.Parameter(torch.randn(9, 6, 3, 3) / 7)
        self.first = parametrizations.weight_norm(nn.Linear(6, 9))
        self.second = parametrizations.spectral_norm(nn.Linear(9, 7))
        self.directions = nn.Parameter(torch.randn(6, 7))
        self.register_buffer("blur", torch.ones(1, 1, 3, 3) / 9)

    def body(self, x: Tensor) -> Tensor:
        x = torch.relu(functional.conv2d(self.next(self.stem(x)), self.wide[:6], padding=1))
        return torch.relu(self.narrow(functional.conv2d(x, self.blur.expand(6, -1, -1, -1), groups=6)))

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.second(torch.relu(self.first(self.body(x).mean((2, 3))))))
        return self.head(functional.linear(x, functional.normalize(self.directions)))


class FixedFilters(Toy):
    """Filters, a blur and a matrix that are buffers, beside layers that can be cut."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.last = unit(5, 8), unit(8, 6)
        self.register_buffer("edges", torch.randn(2, 3, 3, 3))
        self.register_buffer("blur", torch.ones(8, 1, 3, 3) / 9)
        self.register_buffer("turn", torch.randn(6, 6), persistent=False)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(torch.cat([x, functional.conv2d(x, self.edges, padding=1)], 1))
        return self.last(functional.conv2d(x, self.blur, padding=1, groups=x.shape[1]))

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.relu(self.body(x).mean((2, 3)) @ self.turn))


class LearnedQueries(Toy):
    """Learned tokens, repeated for every image, that layers transform: on a batch other operations run than on one."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.last = unit(3, 8), unit(8, 6)
        self.queries = nn.Parameter(torch.randn(4, 6))
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x: Tensor) -> Any:
        tokens = self.down(torch.relu(self.up(self.queries.expand(len(x), -1, -1))))
        return self.head(self.last(self.stem(x)).mean((2, 3)) + tokens.mean(1))


class Views(Toy):
    """Views of an image as images of their own, which later layers see as one."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.middle, self.last = unit(3, 8), unit(8, 7), unit(7, 6)

    def body(self, x: Tensor) -> Tensor:
        views = torch.stack([x, x.flip(-1), 0.5 * x], 1).flatten(0, 1)
        features = self.middle(self.stem(views))
        return self.last(features.unflatten(0, (len(x), 3)).mean(1))


class MixedPrecision(Toy):
    """Runs its layers in half precision, written into the forward; those in double precision stay so."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.middle, self.last = unit(3, 8), nn.Conv2d(8, 7, 3, padding=1), unit(7, 6)
        self.up = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.head(torch.relu(self.up(self.last(torch.relu(self.middle(self.stem(x)))).mean((2, 3)))))
        return out.to(x.dtype)


class Recurrent(Toy):
    """Reads the rows of a map with a recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__(6)
        self.stem, self.middle, self.last = unit(3, 8), unit(8, 7), unit(7, 6)
        self.rows = kind(6, 3, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Any:
        rows = self.last(self.middle(self.stem(x))).mean(3).transpose(1, 2)
        return self.head(self.rows(rows)[0][:, -1])


class Hidden(Toy):
    """Runs its layers through a list, a bound method and a hook that the module tree does not know of."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.middle, self.last = unit(3, 6), nn.Conv2d(6, 8, 3, padding=1), unit(8, 6)
        self.order = [self.stem, self.middle]
        self.activation = self.twice
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.last.register_forward_hook(self.after)

    def twice(self, x: Tensor) -> Tensor:
        return torch.relu(x) * self.factor

    def after(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output + self.factor

    def body(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = self.activation(layer(x))
        return self.last(x)


class Overwritten(Toy):
    """Overwrites the input of a layer in place after the layer has read it."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.last = nn.Conv2d(3, 8, 3, padding=1), unit(6, 6)
        self.conv, self.norm = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.side = nn.Conv2d(8, 6, 1)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.conv(x)
        x.relu_()
        return self.last(self.norm(out) + self.side(x))


class BatchDependent(Toy):
    """Runs one more convolution on a batch than on one image."""

    def __init__(self) -> None:
        super().__init__(6)
        self.stem, self.middle, self.last = unit(3, 6), unit(6, 6), unit(6, 6)

    def body(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if len(x) > 1:
            functional.conv2d(x[:, :1], torch.ones(1, 1, 1, 1, dtype=x.dtype))
        return self.last(self.middle(x))


def separable(multiplier: int) -> Toy:
    wide = 6 * multiplier
    body = nn.Sequential(
        unit(3, 6), unit(6, wide, groups=6), nn.ReLU6(), unit(wide, 9, 1), nn.Hardswish(), unit(9, 9, groups=9)
    )
    return Chain(body, 9)


def plain() -> Toy:
    return Chain(nn.Sequential(unit(3, 8), nn.MaxPool2d(2), unit(8, 10, stride=2), unit(10, 7, 1)), 7)


def affineless() -> Toy:
    """Batch norms without scale, without statistics, and after each other."""
    body = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, affine=False), nn.ReLU(),
        nn.Conv2d(6, 7, 3, padding=1), nn.BatchNorm2d(7, track_running_stats=False), nn.ReLU(),
        nn.Conv2d(7, 6, 3, padding=1), nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.Dropout(), nn.SiLU(),
        nn.GroupNorm(2, 6), nn.Conv2d(6, 5, 1), nn.InstanceNorm2d(5, affine=True, track_running_stats=True), nn.GELU(),
    )  # fmt: skip
    return Chain(body, 5)


def image_depthwise() -> Toy:
    """A depthwise and a grouped transposed convolution, of which the first reads the image."""
    body = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), unit(6, 8), nn.ConvTranspose2d(8, 6, 3, groups=2), unit(6, 7))
    return Chain(body, 7)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "residual with projections": partial(residual, "b"),
    "residual with channel maps": partial(residual, "a"),
    "residual with zero padding": partial(residual, "pad"),
    "concatenation": Concat,
    "dense blocks": Dense,
    "depthwise": partial(separable, 1),
    "depthwise with multiplier": partial(separable, 2),
    "squeeze and excite": SqueezeExcite,
    "chunks": Gated,
    "fixed split": FixedSplit,
    "fixed view": FixedView,
    "slice": Slice,
    "channel shuffle": Shuffle,
    "reused layers": Reused,
    "flattened": Flatten,
    "transposed and resized": UNet,
    "several heads": Heads,
    "functional weights": Functional,
    "tokens": Tokens,
    "tokens, positions first": partial(Tokens, sequence_first=True),
    "paddings": Paddings,
    "pixel shuffle": PixelShuffle,
    "spatial attention": Attention,
    "computed weight": Computed,
    "computed matrices": ComputedMatrices,
    "fixed filters": FixedFilters,
    "learned queries": LearnedQueries,
    "hidden references": Hidden,
    "overwritten input": Overwritten,
    "unusual norms": affineless,
    "depthwise on the image": image_depthwise,
    **ATTENTION_NETWORKS,
}
#: Networks that are cut with exact costs as well, but whose layers cannot all be solved for, image by image.
SLICED: dict[str, Callable[[], nn.Module]] = {
    "views as images": Views,
    "mixed precision": MixedPrecision,
    "long short-term memory": partial(Recurrent, nn.LSTM),
    "gated recurrent": partial(Recurrent, nn.GRU),
}
#: Those of which something cannot be proved, and is frozen by `verified`.
UNPROVED = frozenset({"fixed split", "fixed view", "written heads"})


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Returns the network in eval mode with random weights and statistics, so that outputs are not degenerate."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                if module.running_mean is not None and module.running_var is not None:
                    module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
                    module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                if module.weight is not None:
                    module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                    module.bias.copy_(torch.randn(module.num_features, generator=generator) * 0.2)
    return model.eval()


def toy(name: str, seed: int = 0) -> nn.Module:
    """Returns a settled network of `NETWORKS` or `SLICED`."""
    torch.manual_seed(seed)
    return settled({**NETWORKS, **SLICED}[name](), seed)


def images(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns (count, 3, 12, 12) smooth random images."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 4, 4, generator=generator, dtype=dtype)
    fine = torch.randn(count, *SHAPE, generator=generator, dtype=dtype)
    return functional.interpolate(coarse, size=SHAPE[1:], mode="bilinear") + 0.3 * fine


def fitted(model: nn.Module, x: Tensor) -> nn.Module:
    """Gives the network what training gives it: norms that have the statistics of its images, the mean over calls."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    calls: Counter[nn.Module] = Counter()
    counting = [norm.register_forward_pre_hook(lambda module, _: calls.update([module])) for norm in norms]
    with torch.no_grad():
        model(x)
    repeated = [norm for norm in norms if calls[norm] > 1]
    hooks = [norm.register_forward_pre_hook(fit) for norm in norms if calls[norm] == 1]
    momenta = [norm.momentum for norm in repeated]
    for norm in repeated:
        norm.reset_running_stats(), norm.train()
        norm.momentum = None
    with torch.no_grad():
        model(x)
        for norm, momentum in zip(repeated, momenta, strict=True):
            norm.eval().momentum = momentum
        if repeated:
            model(x)
    for hook in (*counting, *hooks):
        hook.remove()
    return model


def fit(norm: nn.Module, args: tuple[Tensor]) -> None:
    """Gives a batch norm the statistics of its input."""
    dims = [dim for dim in range(args[0].dim()) if dim != 1]
    if norm.running_mean is not None:
        norm.running_mean.copy_(args[0].mean(dims)), norm.running_var.copy_(args[0].var(dims))
