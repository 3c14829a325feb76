"""Subjects of the toy networks, small enough that a method's whole procedure takes a second."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import numpy as np
import torch
from torch import nn

from autoprune.core.budget import parse_budgets
from autoprune.core.space import SearchSpace
from autoprune.data.bundle import bundle_from
from autoprune.methods.base import Subject
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.profiling import profile
from autoprune.models.reduction.selection import rank_groups
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import restricted
from tests.models.toy_networks import images, toy

IMAGES = 32


class Untouchable:
    """In the place of the test images, which no method may look at."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"a method asked the test images for {name!r}")


def small_subject(
    network: str | nn.Module = "residual with projections", *, budget: str = "50%flops", internal: bool = False
) -> Subject:
    """Returns a subject of a toy network; with `internal` groups that pass through no addition of streams."""
    model = toy(network) if isinstance(network, str) else network.eval()
    x = images(IMAGES)
    labels = torch.arange(IMAGES) % 4
    traced = trace(model, x[:1])
    if internal:
        traced = restricted(traced, {group.name for group in traced.groups if not group.coupled})
    calibration = calibrate(model, traced, x[8:20], seed=0, rows=256)
    rankings = rank_groups(model, traced, calibration)
    return Subject(
        model=model,
        network=traced,
        space=SearchSpace.build(traced.groups, traced.cost_model, parse_budgets(budget)),
        calibration=calibration,
        rankings=rankings,
        images=x[8:20],
        data=replace(bundle_from((x, labels), (x[:2], labels[:2])), test=Untouchable()),
        profile=lambda: profile(model, traced, calibration, rankings, x),
        calibration_indices=np.arange(8, 20),
        training=np.arange(8, IMAGES),
        holdout=np.arange(8),
        epochs=0.0,
        device=torch.device("cpu"),
        seed=0,
    )
