"""Attention modules that take the number of their heads from their weights, in place of those that write it down.

The forwards of torch's and torchvision's attention modules fix heads and widths, so no head can be cut. These compute
the same from the same parameters under the same names. The file needs nothing but torch: exported weights come with it.

Notation:
    B   images, or windows of all images
    N   tokens (of the queries), M those of keys and values
    H   heads, as many as the weights have
    d   width of a head, fixed
    E   width of the tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class HeadAttention(nn.Module):
    """Stands in for `nn.MultiheadAttention`.

    Attributes:
        in_proj_weight: (3 H d, E), or None where queries, keys and values are of different widths.
        q_proj_weight: (H d, E), else None.
        k_proj_weight: (H d, kdim), else None.
        v_proj_weight: (H d, vdim), else None.
        in_proj_bias: (3 H d,) or None.
        out_proj: linear layer from H d to E.
        head_dim: d.
        dropout: share of attention weights dropped in training.
        batch_first: whether tokens come as (B, N, E) rather than (N, B, E).
    """

    in_proj_weight: Tensor | None
    q_proj_weight: Tensor
    k_proj_weight: Tensor
    v_proj_weight: Tensor
    in_proj_bias: Tensor | None
    out_proj: nn.Linear
    head_dim: int
    dropout: float
    batch_first: bool

    @property
    def num_heads(self) -> int:
        """H."""
        return self.out_proj.in_features // self.head_dim

    @property
    def _qkv_same_embed_dim(self) -> bool:
        # Read by nn.TransformerEncoderLayer alone, whose fused kernel does without this module and knows E heads only.
        return False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns tokens of the shape of `query`, and (B, N, M) weights, averaged over the heads kept, or None.

        The arguments are those of `nn.MultiheadAttention`.
        """
        batched = query.dim() == 3
        q, k, v = self._heads(query, key, value)
        mask = self._mask(q, k, attn_mask, key_padding_mask, is_causal=is_causal)
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = functional.dropout(weights, p) if p else weights
            out = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), weights
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (B, H, N, d) queries and (B, H, M, d) keys and values."""
        if self.in_proj_weight is not None and query is key and key is value:
            packed = functional.linear(self._by_image(query), self.in_proj_weight, self.in_proj_bias)
            return _thirds(packed, self.head_dim)
        weights: Sequence[Tensor] = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        biases: Sequence[Tensor | None] = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        made = [
            functional.linear(self._by_image(tokens), weight, bias)
            for tokens, weight, bias in zip((query, key, value), weights, biases, strict=True)
        ]
        q, k, v = (torch.unflatten(item, -1, (-1, self.head_dim)).transpose(1, 2) for item in made)
        return q, k, v

    def _by_image(self, tokens: Tensor) -> Tensor:
        """Returns (B, N, E): contiguous, so that the rows that a layer sees are those of one image after the other."""
        if tokens.dim() == 2:
            return tokens.unsqueeze(0)
        return tokens if self.batch_first else tokens.transpose(0, 1).contiguous()

    def _mask(
        self, q: Tensor, k: Tensor, given: Tensor | None, padding: Tensor | None, *, is_causal: bool
    ) -> Tensor | None:
        """Returns what to add to the scores, broadcast to (B, H, N, M)."""
        if given is None and is_causal:
            raise ValueError("is_causal is a hint about attn_mask, which is missing. Give both.")
        parts = []
        if given is not None:
            given = _additive(given, q.dtype)
            parts.append(torch.unflatten(given, 0, (len(q), -1)) if given.dim() == 3 else given)
        if padding is not None:
            parts.append(_additive(padding, q.dtype).reshape(-1, 1, 1, k.shape[2]))
        return sum(parts[1:], parts[0]) if parts else None


def _thirds(packed: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (B, H, N, d) queries, keys and values of (B, N, 3 H d)."""
    q, k, v = torch.unflatten(packed, -1, (3, -1, head_dim)).permute(2, 0, 3, 1, 4)
    return q, k, v


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the mask as numbers to add; of a boolean one, minus infinity where it is set."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))


class WindowAttention(nn.Module):
    """Stands in for torchvision's `ShiftedWindowAttention` (Swin, Liu et al. 2021), and for its second version.

    Attributes:
        qkv: linear layer from E to 3 H d.
        proj: linear layer from H d to E.
        relative_position_bias_table: (T, H) bias of T relative positions.
        relative_position_index: (N * N,) into the table.
        window_size: rows and columns of a window.
        shift_size: rows and columns that windows are shifted by.
        head_dim: d.
        attention_dropout: share of attention weights dropped in training.
        dropout: share of outputs dropped in training.
    """

    qkv: nn.Linear
    proj: nn.Linear
    relative_position_bias_table: Tensor
    relative_position_index: Tensor
    window_size: Sequence[int]
    shift_size: Sequence[int]
    head_dim: int
    attention_dropout: float
    dropout: float

    @property
    def num_heads(self) -> int:
        """H."""
        return self.proj.in_features // self.head_dim

    def forward(self, x: Tensor) -> Tensor:
        """Returns (images, rows, columns, E) of x of the same shape."""
        images, height, width = x.shape[:3]
        rows, columns = self.window_size
        x = functional.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        extents = x.shape[1:3]
        # A window that covers everything has nothing to be shifted to.
        shift = [
            0 if size >= extent else by
            for size, extent, by in zip(self.window_size, extents, self.shift_size, strict=True)
        ]
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        windows = _windows(x, rows, columns)
        mask = self._mask(x, shift) if any(shift) else None
        out = functional.dropout(self._attend(windows, images, mask), self.dropout, self.training)
        grid = (images, extents[0] // rows, extents[1] // columns, rows, columns, -1)
        out = out.reshape(grid).transpose(2, 3).reshape(images, *extents, -1)
        if any(shift):
            out = out.roll(tuple(shift), (1, 2))
        return out[:, :height, :width].contiguous()

    def _attend(self, windows: Tensor, images: int, mask: Tensor | None) -> Tensor:
        """Returns (B, N, E) of (B, N, E) windows, those of an image one after the other."""
        q, k, v = self._project(windows)
        scores = self._scores(q, k) + self._bias()
        if mask is not None:
            scores = (torch.unflatten(scores, 0, (images, -1)) + mask[:, None]).flatten(0, 1)
        weights = functional.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        merged: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return merged

    def _project(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, (B, H, N, d) each."""
        packed = functional.linear(windows, self.qkv.weight, self._qkv_bias())
        return _thirds(packed, self.head_dim)

    def _qkv_bias(self) -> Tensor | None:
        return self.qkv.bias

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Returns (B, H, N, N) scores before any bias."""
        scores: Tensor = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
        return scores

    def _table(self) -> Tensor:
        """Returns (T, H) the bias of every relative position."""
        return self.relative_position_bias_table

    def _bias(self) -> Tensor:
        """Returns (H, N, N) the bias of every pair of tokens."""
        tokens = self.window_size[0] * self.window_size[1]
        pairs = self._table()[self.relative_position_index].reshape(tokens, tokens, -1)
        return pairs.permute(2, 0, 1).contiguous()

    def _mask(self, x: Tensor, shift: Sequence[int]) -> Tensor:
        """Returns (windows, N, N): -100 for pairs of tokens that only the shift has brought into one window."""
        regions = x.new_zeros(1, *x.shape[1:3], 1)
        number = 0
        for above in _bands(self.window_size[0], shift[0]):
            for left in _bands(self.window_size[1], shift[1]):
                regions[:, above, left] = number
                number += 1
        region = _windows(regions, *self.window_size).squeeze(-1)
        apart = region[:, None, :] != region[:, :, None]
        return x.new_zeros(apart.shape).masked_fill(apart, -100.0)


def _bands(size: int, shift: int) -> tuple[slice, slice, slice]:
    """Returns the rows before the last window, those of it that stay, and those that the shift moved there."""
    return slice(0, -size), slice(-size, -shift), slice(-shift, None)


def _windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Returns (images * windows, rows * columns, E) of (images, height, width, E)."""
    images, height, width = x.shape[:3]
    split = x.reshape(images, height // rows, rows, width // columns, columns, -1)
    return split.transpose(2, 3).flatten(0, 2).flatten(1, 2)


class CosineWindowAttention(WindowAttention):
    """Stands in for torchvision's `ShiftedWindowAttentionV2` (Swin V2, Liu et al. 2022).

    Attributes:
        logit_scale: (H, 1, 1) logarithm of the scale of the scores.
        cpb_mlp: from (*, 2) relative coordinates to (*, H) biases.
        relative_coords_table: (1, rows, columns, 2) the relative coordinates.
    """

    logit_scale: Tensor
    cpb_mlp: nn.Module
    relative_coords_table: Tensor

    #: The temperature may not fall below 0.01.
    _LARGEST_SCALE = 100.0

    def _qkv_bias(self) -> Tensor | None:
        if self.qkv.bias is None:
            return None
        # Keys have no bias: its third of the parameter is there and never read.
        keyless = self.qkv.bias.new_tensor([1.0, 0.0, 1.0])
        return (torch.unflatten(self.qkv.bias, 0, (3, -1)) * keyless[:, None]).flatten()

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        cosines = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
        return cosines * self.logit_scale.exp().clamp(max=self._LARGEST_SCALE)

    def _table(self) -> Tensor:
        biases = cast(Tensor, self.cpb_mlp(self.relative_coords_table))
        return 16 * torch.sigmoid(biases.flatten(0, 2))


class GridAttention(nn.Module):
    """Stands in for torchvision's `RelativePositionalMultiHeadAttention` (MaxViT, Tu et al. 2022).

    Attributes:
        to_qkv: linear layer from E to 3 H d.
        merge: linear layer from H d to E.
        relative_position_bias_table: (T, H) bias of T relative positions.
        relative_position_index: (N, N) into the table.
        scale_factor: what keys are multiplied by.
        max_seq_len: N.
        head_dim: d.
    """

    to_qkv: nn.Linear
    merge: nn.Linear
    relative_position_bias_table: Tensor
    relative_position_index: Tensor
    scale_factor: float
    max_seq_len: int
    head_dim: int

    @property
    def n_heads(self) -> int:
        """H."""
        return self.merge.in_features // self.head_dim

    def forward(self, x: Tensor) -> Tensor:
        """Returns (images, groups, N, E) of x of the same shape."""
        packed = torch.unflatten(self.to_qkv(x), -1, (3, -1, self.head_dim))
        q, k, v = packed.permute(3, 0, 1, 4, 2, 5)
        scores = q @ (k * self.scale_factor).transpose(-2, -1)
        index = self.relative_position_index.flatten()
        bias = self.relative_position_bias_table[index].reshape(self.max_seq_len, self.max_seq_len, -1).permute(2, 0, 1)
        weights = torch.softmax(scores + bias.contiguous(), dim=-1)
        merged: Tensor = self.merge((weights @ v).transpose(2, 3).flatten(3))
        return merged


#: By name: a network that holds such a module has imported its class, and we need not.
_STAND_INS: dict[str, type[nn.Module]] = {
    "torch.nn.modules.activation.MultiheadAttention": HeadAttention,
    "torchvision.models.swin_transformer.ShiftedWindowAttention": WindowAttention,
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": CosineWindowAttention,
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": GridAttention,
}


def stand_in(module: nn.Module) -> type[nn.Module] | None:
    """Returns the class that a module can be given, None if there is none."""
    if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
        return None
    return _STAND_INS.get(f"{type(module).__module__}.{type(module).__qualname__}")


def take_heads(module: nn.Module) -> None:
    """Replaces the number of heads that a stand-in was made with by the width of one, which no cut changes."""
    if not isinstance(module, HeadAttention | WindowAttention | GridAttention):
        return
    attributes = module.__dict__
    attributes.pop("_qkv_same_embed_dim", None)
    heads = attributes.pop("n_heads" if isinstance(module, GridAttention) else "num_heads", None)
    if isinstance(module, WindowAttention) and heads is not None:
        attributes["head_dim"] = module.proj.in_features // heads
