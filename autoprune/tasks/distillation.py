"""What a detector lacks of its teacher: in its feature maps, its class probabilities and its boxes.

Notation:
    F   (B, C, H, W)  a feature map; C differs between a cut network and its teacher
    A   (B, H W)      its attention map: the mean of F^2 over the channels, scaled to length one
    f   (B, a)        an anchor's weight: the larger of the two networks' probabilities that it holds an object

Features by attention transfer (Zagoruyko and Komodakis 2017, equation 2), which asks for no equal number of channels.
Classes by softened divergence and boxes by smooth L1, as Chen et al. 2017 ("Learning Efficient Object Detection Models
with Knowledge Distillation") distil them; the weight f in place of their per-class weights is ours: nearly all of the
thousands of anchors hold background, which teaches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Seen:
    """What is compared.

    Attributes:
        features: (B, C, H, W) maps, the same sides in both networks.
        heads: `cls_logits` (B, a, classes) and `bbox_regression` (B, a, 4).
    """

    features: Sequence[Tensor]
    heads: Mapping[str, Tensor]


def excludes(detector: nn.Module) -> bool:
    """Returns whether an anchor has one class, the first being background (SSD), or any number (RetinaNet, FCOS)."""
    return hasattr(detector, "neg_to_pos_ratio")


def gap(mine: Seen, wanted: Seen, *, temperature: float, exclusive: bool) -> Tensor:
    """Returns the sum of what is lacking in features, classes and boxes; zero for equal networks.

    Args:
        mine: of the network that learns.
        wanted: of its teacher.
        temperature: softens the class probabilities, above 0.
        exclusive: as `excludes` says.
    """
    logits, teachers = mine.heads["cls_logits"].float(), wanted.heads["cls_logits"].float()
    weight = torch.maximum(_objectness(logits.detach(), exclusive), _objectness(teachers, exclusive))
    total = weight.sum().clamp_min(1.0)
    classes = (weight * _divergence(logits / temperature, teachers / temperature, exclusive)).sum() / total
    boxes = functional.smooth_l1_loss(
        mine.heads["bbox_regression"].float(), wanted.heads["bbox_regression"].float(), reduction="none"
    ).sum(2)
    features = attention_gap(list(zip(mine.features, wanted.features, strict=True)))
    return temperature**2 * classes + (weight * boxes).sum() / total + features


def attention_gap(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns the sum over pairs of maps of the mean squared distance of their attention maps; 0 without a pair."""
    gaps = [(_attention(left) - _attention(right)).square().sum(1).mean() for left, right in pairs]
    return torch.stack(gaps).sum() if gaps else torch.zeros(())


def _objectness(logits: Tensor, exclusive: bool) -> Tensor:
    """Returns (B, a) the probability that an anchor holds an object."""
    return 1 - logits.softmax(2)[..., 0] if exclusive else logits.sigmoid().amax(2)


def _divergence(logits: Tensor, wanted: Tensor, exclusive: bool) -> Tensor:
    """Returns (B, a) the KL divergence of the class probabilities from the wanted ones."""
    if exclusive:
        left, right = logits.log_softmax(2), wanted.log_softmax(2)
        return (right.exp() * (right - left)).sum(2)
    likely = wanted.sigmoid()
    yes = functional.logsigmoid(wanted) - functional.logsigmoid(logits)
    no = functional.logsigmoid(-wanted) - functional.logsigmoid(-logits)
    return (likely * yes + (1 - likely) * no).sum(2)


def _attention(features: Tensor) -> Tensor:
    return functional.normalize(features.float().square().mean(1).flatten(1), dim=1)
