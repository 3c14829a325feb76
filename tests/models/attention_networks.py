"""Small networks with attention, one per way of writing it; each takes (B, 3, 12, 12) images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from autoprune.models.cutting.attention import adapt

WIDTH, HEADS, HEAD_DIM, TOKENS = 12, 4, 3, 16


class Fused(nn.Module):
    """Queries, keys and values of one linear layer, fused attention, heads counted by their width."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        images, tokens = x.shape[:2]
        q, k, v = self.qkv(x).view(images, tokens, 3, -1, HEAD_DIM).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(images, tokens, -1))


class ByHand(nn.Module):
    """Three linear layers, two products, and a table of biases per pair of tokens and head."""

    def __init__(self, *, named_count: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.table = nn.Parameter(torch.randn(2 * TOKENS, HEADS))
        self.scale = nn.Parameter(torch.randn(HEADS, 1, 1))
        self.register_buffer("index", torch.arange(TOKENS)[:, None] + torch.arange(TOKENS))
        self.num_heads, self.all_head_size, self.named_count = HEADS, WIDTH, named_count

    def split(self, x: Tensor) -> Tensor:
        heads = self.num_heads if self.named_count else -1
        return x.view(*x.shape[:2], heads, HEAD_DIM).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
        bias = self.table[self.index].permute(2, 0, 1).contiguous().unsqueeze(0)
        weights = (scores * self.scale.clamp(max=1.0).exp() + bias).softmax(-1)
        merged = (weights @ v).transpose(1, 2).contiguous()
        return self.out(merged.view(*x.shape[:2], self.all_head_size if self.named_count else -1))


class Shared(nn.Module):
    """Two heads of keys and values for four of queries, in one layer each, written with einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.norm, self.proj = nn.LayerNorm(HEAD_DIM), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q = self.norm(self.q(x).unflatten(-1, (-1, HEAD_DIM)))
        kv = self.kv(x).unflatten(-1, (-1, 2 * HEAD_DIM))
        k, v = kv.repeat_interleave(2, dim=2).chunk(2, dim=-1)
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
        return self.proj(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))


class OneHead(nn.Module):
    """Attention without heads: one product sums over all channels of queries and keys, one over none of the values'."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1)
        return self.out(weights @ self.value(x))


class Written(Fused):
    """Writes the number of heads into a view."""

    def forward(self, x: Tensor) -> Tensor:
        images, tokens = x.shape[:2]
        q, k, v = self.qkv(x).view(images, tokens, 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)
        return self.proj((functional.scaled_dot_product_attention(q, k, v)).transpose(1, 2).flatten(2))


class Torchs(nn.Module):
    """`nn.MultiheadAttention`, whose weights `weighed` reads besides its tokens."""

    def __init__(self, *, weighed: bool = False, **options: Any) -> None:
        super().__init__()
        self.attention, self.weighed = nn.MultiheadAttention(WIDTH, HEADS, **options), weighed

    def forward(self, x: Tensor) -> Tensor:
        if not self.attention.batch_first:
            x = x.transpose(0, 1)
        out, weights = self.attention(x, x, x)
        out = out if self.attention.batch_first else out.transpose(0, 1)
        return weights @ out if self.weighed else out


class Transformer(nn.Module):
    """Patches with a class token and positions, attention, an MLP with layer norms before both, and a classifier."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 3, stride=3)
        self.token, self.places = (nn.Parameter(torch.randn(1, count, WIDTH)) for count in (1, TOKENS + 1))
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = attention
        self.up, self.down = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = (torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places)[:, :TOKENS]
        x = x + self.attention(self.before(x))
        x = x + self.down(functional.gelu(self.up(self.between(x))))
        return self.head(x[:, 0])


def transformer(attention: Callable[[], nn.Module]) -> nn.Module:
    return adapt(Transformer(attention()))


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 20, batch_first=True, **options)
    return transformer(lambda: nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))


def vision_transformer() -> nn.Module:
    """Returns torchvision's, as small as it gets, for images of 32 by 32."""
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=20, num_classes=5
    )


ATTENTION_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "fused heads": partial(transformer, Fused),
    "heads by hand": partial(transformer, ByHand),
    "counted heads": partial(transformer, partial(ByHand, named_count=True)),
    "shared keys": partial(transformer, Shared),
    "one head": partial(transformer, OneHead),
    "written heads": partial(transformer, Written),
    "torch's attention": partial(transformer, partial(Torchs, batch_first=True)),
    "transformer layer": encoder,
}
