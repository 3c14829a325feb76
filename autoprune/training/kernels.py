"""What the kernels of a training's steps work on: how tensors lie in memory, and how many bits their numbers have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.devices import gpu_module, half_precision, is_gpu, is_out_of_memory
from autoprune.models.cutting.folding import same_outputs
from autoprune.models.modules.replicas import replicate
from autoprune.tasks.detectors import raw_outputs

Loss = Callable[[nn.Module, AbstractContextManager[Any]], Tensor]

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


def training_precision(loss: Loss, model: nn.Module, images: Tensor) -> torch.dtype | None:
    """Returns the 16-bit type that forwards and gradients are computed in; None for float32.

    Weights, their updates, statistics of batch norms and losses stay float32 (Micikevicius et al. 2018, "Mixed
    Precision Training"). On one thread of a CPU with AVX-512 BF16, CPU seconds of a step in float32 over those in
    bfloat16, with distillation: ResNet-20-B at half the FLOPs 1.71, ResNet-56-B 1.60, DenseNet-40 2.23, ResNet-8 1.43;
    without a teacher VGG-16 1.59, MobileNetV2 of CIFAR 1.45, GoogLeNet 1.88; at 224x224 ResNet-18 1.69, ViT-B/16 3.25,
    ConvNeXt-T 2.37, DenseNet-121 2.18, MobileNetV2 1.46, ShuffleNetV2 1.03, EfficientNet-B0 0.93. On 8x8 digits the
    conversions cost what the kernels save: ResNet 0.99, ViT 0.70.

    Args:
        loss: of a network in training mode on a few images, in the precision that it is given.
        model: in any mode; not changed.
        images: (B, C, H, W) those images, on its device.
    """
    if not is_gpu(images.device) and images[0].numel() < _LARGE_IMAGE:
        return None
    half = half_precision(images.device)
    return half if half is not None and _has_gradients(loss, model, images.device, half) else None


def without_gradient(loss: Loss, model: nn.Module, device: torch.device) -> tuple[str, ...]:
    """Returns the names of the parameters that are trained though the loss does not depend on them.

    Auxiliary heads get no gradient where their answers do not count, as when a teacher's alone do.

    Args:
        loss: of a network in training mode on a few images, in the precision that it is given.
        model: in any mode; not changed.
        device: that it is on.
    """
    replica = replicate(model, {}, {}).train()
    trained = {name: value for name, value in replica.named_parameters() if value.requires_grad}
    with _undrawn(device):
        found = torch.autograd.grad(loss(replica, nullcontext()), list(trained.values()), allow_unused=True)
    return tuple(name for name, gradient in zip(trained, found, strict=True) if gradient is None)


def _has_gradients(loss: Loss, model: nn.Module, device: torch.device, half: torch.dtype) -> bool:
    """Returns whether all that a network does while it is trained can be done in a 16-bit type."""
    replica = replicate(model, {}, {}).train()
    trained = [value for value in replica.parameters() if value.requires_grad]
    try:
        with _undrawn(device):
            found = loss(replica, torch.autocast(device.type, dtype=half))
            torch.autograd.grad(found, trained, allow_unused=True)
    # Whatever a forward says to numbers of another type: a kernel that there is for float32 alone raises RuntimeError,
    # NumPy TypeError, an assertion of its own AssertionError.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False
    return True


@contextmanager
def _undrawn(device: torch.device) -> Iterator[None]:
    """Puts back what torch's global generators were at, such as dropout draws from."""
    state = torch.get_rng_state()
    beside = gpu_module(device).get_rng_state(device) if is_gpu(device) else None
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if beside is not None:
            gpu_module(device).set_rng_state(beside, device)
