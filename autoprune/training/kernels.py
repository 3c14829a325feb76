"""What the kernels of a training's steps work on: how tensors lie in memory, and how many bits their numbers have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.devices import half_precision, is_gpu
from autoprune.models.folding import same_outputs
from autoprune.models.surgery import replicate
from autoprune.tasks.detectors import raw_outputs

#: Numbers of the smallest images whose networks were seen to gain on a CPU, by either: CIFAR's.
_LARGE_IMAGE = 3 * 32 * 32


@torch.no_grad()
def training_layout(model: nn.Module, images: Tensor) -> torch.memory_format:
    """Returns the memory layout that a network is trained in: channels last, where it puts out the same.

    A GPU's half-precision kernels want it so. On one thread of a CPU, CPU seconds of a step with the usual layout over
    those with channels last, batch 64 (8 at 224x224), medians of 5: ResNet-20-B 1.27, ResNet-56-B 1.28, MobileNetV2 of
    CIFAR 1.42, VGG-16 0.89; at 224x224 MobileNetV2 1.21, ResNet-18 1.14, EfficientNet-B0 1.24; 8x8 digits 1.01.

    Args:
        model: in any mode; not changed.
        images: (B, C, H, W) a few, on its device.
    """
    if images[0].numel() < _LARGE_IMAGE:
        return torch.contiguous_format
    replica = replicate(model, {}, {}).eval()
    wanted = tree_leaves(raw_outputs(replica, images))
    try:
        laid_out = images.contiguous(memory_format=torch.channels_last)
        found = tree_leaves(raw_outputs(replica.to(memory_format=torch.channels_last), laid_out))
    except RuntimeError:  # such as a view of features that no longer lie together
        return torch.contiguous_format
    return torch.channels_last if same_outputs(found, wanted) else torch.contiguous_format


def training_precision(model: nn.Module, images: Tensor) -> torch.dtype | None:
    """Returns the 16-bit type that forwards and gradients are computed in; None for float32.

    Weights, their updates, statistics of batch norms and losses stay float32 (Micikevicius et al. 2018, "Mixed
    Precision Training"). On one thread of a CPU with AVX-512 BF16, CPU seconds of a step in float32 over those in
    bfloat16, with distillation: ResNet-20-B at half the FLOPs 1.71, ResNet-56-B 1.60, DenseNet-40 2.23, ResNet-8 1.43;
    without a teacher VGG-16 1.59, MobileNetV2 of CIFAR 1.45, GoogLeNet 1.88; at 224x224 ResNet-18 1.69, ViT-B/16 3.25,
    ConvNeXt-T 2.37, DenseNet-121 2.18, MobileNetV2 1.46, ShuffleNetV2 1.03, EfficientNet-B0 0.93. On 8x8 digits the
    conversions cost what the kernels save: ResNet 0.99, ViT 0.70.

    Args:
        model: in any mode; not changed.
        images: (B, C, H, W) a few, on its device.
    """
    if not is_gpu(images.device) and images[0].numel() < _LARGE_IMAGE:
        return None
    half = half_precision(images.device)
    return half if half is not None and _has_gradients(model, images, half) else None


def _has_gradients(model: nn.Module, images: Tensor, half: torch.dtype) -> bool:
    """Returns whether all that a network does has kernels for a 16-bit type."""
    replica = replicate(model, {}, {}).eval()
    trained = [value for value in replica.parameters() if value.requires_grad]
    try:
        with torch.autocast(images.device.type, dtype=half):
            outputs = tree_leaves(raw_outputs(replica, images))
        parts = [item.float().sum() for item in outputs if isinstance(item, Tensor) and item.requires_grad]
        torch.autograd.grad(parts, trained, allow_unused=True)
    except RuntimeError:  # such as a kernel that there is for float32 alone
        return False
    return True
