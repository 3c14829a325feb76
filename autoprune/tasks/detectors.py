"""One-stage detectors built as torchvision builds them, and what they compute before any box is decoded.

In eval mode such a network returns boxes: thresholded, sorted and suppressed, so that how many there are, and which
operations find them, depends on the image. Images are normalised one by one, so that a batch runs more operations than
an image does. What can be traced, compared and distilled is the part between: normalised images in, head outputs out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

_PARTS = ("transform", "backbone", "head", "anchor_generator")


def is_detector(model: nn.Module) -> bool:
    """Returns whether a network is a one-stage detector with the parts of torchvision's SSD, RetinaNet and FCOS."""
    return all(isinstance(getattr(model, part, None), nn.Module) for part in _PARTS)


def raw_outputs(model: nn.Module, images: Tensor) -> Any:
    """Returns what a network computes of (B, C, H, W) images: what its forward gives, or a detector's head outputs."""
    return heads_of(model, images)[1] if is_detector(model) else model(images)


def heads_of(detector: nn.Module, images: Tensor) -> tuple[list[Tensor], Mapping[str, Tensor]]:
    """Returns the feature maps, (B, C, H, W) each, and the head outputs, (B, anchors, *) each, of a detector.

    Args:
        detector: of which `is_detector` holds.
        images: (B, 3, H, W) in [0, 1], as for the detector itself.
    """
    found = detector.get_submodule("backbone")(_network_input(detector, images))
    features = list(found.values()) if isinstance(found, Mapping) else [found]
    outputs: Mapping[str, Tensor] = detector.get_submodule("head")(features)
    return features, outputs


def _network_input(detector: nn.Module, images: Tensor) -> Tensor:
    """Returns the images as the detector's own transform makes them in eval mode, all of them at once."""
    transform: Any = detector.get_submodule("transform")
    images = transform.normalize(images)
    height, width = images.shape[-2:]
    if transform.fixed_size is not None:
        size = (transform.fixed_size[1], transform.fixed_size[0])
    else:
        scale = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
        size = (math.floor(height * scale), math.floor(width * scale))
    if size != (height, width):
        images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
    rest = [-side % transform.size_divisible for side in size]
    return functional.pad(images, [0, rest[1], 0, rest[0]]) if any(rest) else images
