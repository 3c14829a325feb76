"""Random crops, flips and colours of a whole batch at once, on its device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autoprune.data.boxes import Target
from autoprune.data.preprocessing import Augmentation
from autoprune.tasks.segmentation import IGNORED

#: Weights of red, green and blue in the grey that saturation fades to (ITU-R BT.601).
_GREY = (0.299, 0.587, 0.114)


def augment_with_targets(
    images: Tensor, targets: Any, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Any]:
    """Returns varied images, and their targets where these are now: class indices, masks or boxes."""
    if not isinstance(targets, Tensor):
        return augment_boxed(images, targets, augmentation, generator)
    if targets.ndim == 3:
        return augment_masked(images, targets, augmentation, generator)
    return augment(images, augmentation, generator), targets


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator, *, outside: int = 0) -> Tensor:
    """Returns (n, C, H, W) varied images of the same type.

    Args:
        images: (n, C, H, W), of any type.
        augmentation: what to do.
        generator: on the CPU, so that a seed gives the same crops on every device.
        outside: what lies around an image.
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
    padded = functional.pad(images, [padding] * 4, value=outside) if padding else images
    picture = torch.arange(count, device=images.device)[:, None, None]
    # Channels last while indexing: one index per pixel instead of one per pixel and channel.
    varied = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    return varied.permute(0, 3, 1, 2).contiguous()


def augment_masked(
    images: Tensor, masks: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Returns varied images of the same type and their masks, cropped and mirrored alike.

    Args:
        images: (n, C, H, W), of any type.
        masks: (n, H, W) int64; not changed.
        augmentation: what to do.
        generator: on the CPU, so that a seed gives the same images on every device.
    """
    before = generator.get_state()
    varied = augment(images, augmentation, generator)
    generator.set_state(before)
    moved = augment(masks[:, None], augmentation, generator, outside=IGNORED)[:, 0]
    return (_recoloured(varied, augmentation.colour, generator) if augmentation.colour else varied), moved


def augment_boxed(
    images: Tensor, targets: list[Target], augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, list[Target]]:
    """Returns varied images of the same type, and their boxes where these are now.

    Half of the images are mirrored, and brightness, contrast and saturation vary, after the photometric distortion of
    SSD (Liu et al. 2016). There are no crops: a padded crop as of `augment` would cut boxes off.

    Args:
        images: (n, C, H, W) uint8 in [0, 255].
        targets: of the images; not changed.
        augmentation: what to do.
        generator: on the CPU, so that a seed gives the same images on every device.
    """
    if augmentation.flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
        targets = [
            _mirrored(target, images.shape[3]) if mirror else target
            for target, mirror in zip(targets, mirrored.tolist(), strict=True)
        ]
    return (_recoloured(images, augmentation.colour, generator) if augmentation.colour else images), targets


def _mirrored(target: Target, width: int) -> Target:
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    return {**target, "boxes": torch.stack([width - x2, y1, width - x1, y2], dim=1)}


def _recoloured(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Returns uint8 images whose brightness, contrast and saturation are off by up to a share `strength`."""
    factors = 1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)
    brightness, contrast, saturation = factors.to(images.device)
    pixels = images.float() * brightness
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + contrast * (pixels - mean)
    if images.shape[1] == len(_GREY):
        grey = (pixels * torch.tensor(_GREY, device=images.device)[:, None, None]).sum(1, keepdim=True)
        pixels = grey + saturation * (pixels - grey)
    recoloured: Tensor = pixels.round().clamp(0, 255).to(images.dtype)
    return recoloured
