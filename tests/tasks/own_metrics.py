"""What a user writes to measure and search by another metric."""

from __future__ import annotations

import torch

from autoprune.models.zoo.families.cifar_resnet import CifarResNet
from autoprune.tasks.classification import Classification


class TopThree(Classification):
    metric = "top-3 accuracy"
    score = "accuracy"

    def hits(self, logits, labels):
        return (logits.topk(3, dim=1).indices == labels[:, None]).any(dim=1)


class TopThreeError(TopThree):
    metric = "top-3 error"
    higher_is_better = False

    def hits(self, logits, labels):
        return ~super().hits(logits, labels)


def network():
    torch.manual_seed(0)
    return CifarResNet(blocks=1, option="b", widths=(4, 6, 8), in_channels=1).eval()


def no_task():
    return "accuracy"
