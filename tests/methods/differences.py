"""How far two networks are apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.models.verification.equivalence import outputs


@torch.no_grad()
def largest_difference(model: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Returns the largest absolute difference of two networks' outputs on the images, in eval mode."""
    pairs = zip(outputs(model.eval(), images), outputs(other.eval(), images), strict=True)
    return max(float((left - right).abs().max()) for left, right in pairs)
