"""Random crops and flips of a whole batch at once, on its device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from autoprune.data.preprocessing import Augmentation


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Returns (n, C, H, W) varied images of the same type.

    Args:
        images: (n, C, H, W), of any type.
        augmentation: what to do.
        generator: on the CPU, so that a seed gives the same crops on every device.
    """
    if not augmentation.does_anything:
        return images
    count, _, height, width = images.shape
    padding = augmentation.crop_padding
    shifts = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    columns = torch.arange(width).expand(count, width)
    if augmentation.flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows = (shifts[0] + torch.arange(height)).to(images.device)
    columns = (shifts[1] + columns).to(images.device)
    padded = functional.pad(images, [padding] * 4) if padding else images
    picture = torch.arange(count, device=images.device)[:, None, None]
    # Channels last while indexing: one index per pixel instead of one per pixel and channel.
    varied = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    return varied.permute(0, 3, 1, 2).contiguous()
