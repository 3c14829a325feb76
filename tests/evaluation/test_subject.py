from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoprune.core.seams import frozen_arrays
from autoprune.evaluation.subject import FloatImages, fleshed_out, image_arrays, skeleton, weight_arrays
from tests.evaluation.subjects import factory, pixels
from tests.models.toy_networks import NETWORKS, images, toy


@pytest.mark.parametrize("name", NETWORKS)
def test_a_skeleton_with_its_arrays_is_the_network(name):
    model = toy(name)
    arrays = frozen_arrays(weight_arrays(model))
    again = fleshed_out(skeleton(model), arrays)
    x = images(2)
    with torch.no_grad():
        for a, b in zip(*(torch.utils._pytree.tree_leaves(item(x)) for item in (model, again)), strict=True):
            assert torch.equal(a, b)


def test_a_skeleton_takes_no_room_and_shares_nothing():
    model = toy("plain")
    bones = skeleton(model)
    assert sum(tensor.untyped_storage().nbytes() for tensor in bones.parameters()) < 200
    assert not any(bool(tensor.any()) for tensor in bones.parameters())
    assert any(bool(tensor.any()) for tensor in model.parameters())


def test_a_network_with_its_arrays_does_not_copy_them():
    model = toy("plain")
    arrays = frozen_arrays(weight_arrays(model))
    again = fleshed_out(skeleton(model), arrays)
    for name, tensor in again.named_parameters():
        assert tensor.data_ptr() == arrays[f"weights/{name}"].ctypes.data


def test_a_factory_for_workers_is_small_and_picklable():
    _, made = factory()
    light = pickle.dumps(made.for_workers(gpu=False))
    assert made.for_workers(gpu=False).arrays == {}
    assert len(light) < sum(array.nbytes for array in made.arrays.values()) / 5
    subject = pickle.loads(light).subject(frozen_arrays(made.arrays))
    assert len(subject.holdout) == 48
    assert subject.training is not None
    assert len(subject.training) == 32


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_evaluators_of_workers_compute_on_what_those_have(gpu, device):
    for here in ("cpu", "cuda:1"):
        assert replace(factory()[1], device=here).for_workers(gpu=gpu).device == device


def test_bytes_stay_bytes_and_other_images_become_floats():
    train = pixels(10)
    arrays = image_arrays(train, np.array([3, 1]), "holdout")
    assert arrays["holdout/pixels"].dtype == np.uint8
    assert arrays["holdout/labels"].tolist() == train.labels[[3, 1]].tolist()
    floats = FloatImages(train.take(np.arange(10)).numpy(), train.labels)
    arrays = image_arrays(floats, np.array([3, 1]), "holdout")
    assert arrays["holdout/pixels"].dtype == np.float32
    assert torch.equal(torch.from_numpy(arrays["holdout/pixels"]), train.take([3, 1]))
