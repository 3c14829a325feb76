"""A subject of the toy networks on random images, as a search would prepare one."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autoprune.core.candidate import Candidate, Fidelity
from autoprune.core.seeds import derive_seed
from autoprune.core.structure import Structure
from autoprune.data.images import ArrayImages
from autoprune.data.preprocessing import Augmentation, Preprocessing
from autoprune.evaluation.scoring import logits_of
from autoprune.evaluation.subject import SubjectFactory, image_arrays, skeleton, weight_arrays
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.selection import rank_groups
from autoprune.models.tracing.tracer import trace
from tests.models.toy_networks import toy

PREPROCESSING = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def pixels(count: int, seed: int = 0) -> ArrayImages:
    """Returns random images of five classes that differ in brightness."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, count)
    values = rng.integers(0, 120, (count, 3, 12, 12)) + 27 * labels[:, None, None, None]
    return ArrayImages(values.astype(np.uint8), labels.astype(np.int64), PREPROCESSING)


def factory(name: str = "residual with channel maps", *, score: str = "accuracy") -> tuple[nn.Module, SubjectFactory]:
    """Returns a dense network and the factory of its evaluators."""
    model = toy(name)
    network = trace(model, torch.zeros(1, 3, 12, 12))
    train, indices = pixels(80), np.arange(32)
    images = train.take(indices)
    calibration = calibrate(model, network, images, seed=0)
    arrays = {
        **weight_arrays(model),
        **calibration.to_arrays(),
        **image_arrays(train, np.arange(32, 80), "holdout"),
        **image_arrays(train, indices, "training"),
        "calibration_images": images.numpy(),
        "dense_logits": logits_of(model, train, np.arange(32, 80), torch.device("cpu")).numpy(),
    }
    made = SubjectFactory(
        arrays=arrays,
        skeleton=skeleton(model),
        network=network,
        rankings=rank_groups(model, network, calibration),
        preprocessing=PREPROCESSING,
        lazy_training=None,
        lazy_indices=None,
        augmentation=Augmentation(),
        score=score,
        device="cpu",
    )
    return model, made


def candidate(made: SubjectFactory, share: float, fidelity: Fidelity, *, id: int = 0) -> Candidate:
    """Returns a candidate that keeps this share of every width."""
    structure = Structure(tuple(max(1, round(share * group.width)) for group in made.network.groups))
    return Candidate(id, structure, made.network.cost_model.cost(structure), fidelity, derive_seed(0, id), "test")
