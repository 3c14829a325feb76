"""A small vision transformer: what its larger relatives are made of, on images of 8 by 8 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Attention and a perceptron, each normalised in front and added to the tokens."""

    def __init__(self, width: int, *, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, tokens, width) of as many."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.fc2(self.act(self.fc1(self.norm2(x))))
        return out


class DigitsVit(nn.Module):
    """Patches of 2 by 2 pixels as tokens, pre-norm blocks (Dosovitskiy et al., 2021), the mean of the tokens read out.

    Departs from the paper in the mean instead of a class token, and in sizes.
    """

    def __init__(
        self, *, classes: int = 10, width: int = 32, heads: int = 8, hidden: int = 128, blocks: int = 4
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.position = nn.Parameter(torch.empty(1, 16, width).normal_(std=0.02))
        self.blocks = nn.Sequential(*(Block(width, heads=heads, hidden=hidden) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, classes) logits of x (B, 1, 8, 8)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        out: Tensor = self.fc(self.norm(self.blocks(tokens)).mean(1))
        return out
