from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from autoprune.core.seams import frozen_arrays
from autoprune.models.reduction.calibration import Calibration, calibrate, patches_at, solvable
from autoprune.models.tracing.tracer import trace
from tests.models.toy_networks import NETWORKS, SHAPE, images, toy

CONVOLUTIONS = {
    "same": {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)},
    "strided": {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)},
    "no padding": {"kernel": (5, 3), "stride": (1, 2), "padding": (0, 0), "dilation": (1, 1)},
    "dilated": {"kernel": (3, 2), "stride": (2, 1), "padding": (2, 1), "dilation": (2, 3)},
    "pointwise": {"kernel": (1, 1), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)},
    "one dimension": {"kernel": (4,), "stride": (3,), "padding": (2,), "dilation": (2,)},
    "three dimensions": {"kernel": (2, 3, 1), "stride": (1, 2, 1), "padding": (1, 0, 1), "dilation": (1, 1, 2)},
}


@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_patches_times_the_kernel_are_the_convolution(conv):
    spatial = (11, 9, 6)[: len(conv["kernel"])]
    x = torch.randn(3, 4, *spatial, dtype=torch.float64)
    weight = torch.randn(5, 4, *conv["kernel"], dtype=torch.float64)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(spatial) - 1]
    expected = convolve(x, weight, None, conv["stride"], conv["padding"], conv["dilation"]).flatten(2)
    positions = torch.stack([torch.randperm(expected.shape[2])[:7].sort().values for _ in range(3)])
    found = patches_at(x, positions, **conv) @ weight.movedim(1, -1).flatten(1).T
    torch.testing.assert_close(found, expected.gather(2, positions[:, None].expand(-1, 5, -1)).transpose(1, 2))


def test_patches_are_those_of_unfold():
    x = torch.randn(2, 3, 8, 8)
    positions = torch.arange(16).expand(2, 16)
    found = patches_at(x, positions, kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1))
    unfolded = functional.unfold(x, 3, stride=2, padding=1).transpose(1, 2)
    assert torch.equal(found, unfolded.unflatten(2, (3, 9)).transpose(2, 3).flatten(2))
    assert torch.equal(
        found,
        patches_at(
            x.contiguous(memory_format=torch.channels_last),
            positions,
            kernel=(3, 3),
            stride=(2, 2),
            padding=(1, 1),
            dilation=(1, 1),
        ),
    )


def test_moments_and_targets_are_those_of_a_naive_pass():
    model = toy("residual with projections").double()
    network = trace(model, torch.zeros(1, *SHAPE, dtype=torch.float64))
    x = images(10, dtype=torch.float64)
    calibration = calibrate(model, network, x, seed=0, rows=10 * 20, batch=4)
    call = next(call for call in network.calls if call.weight == "layers.2.conv2.weight")
    seen = {}
    block = model.get_submodule("layers.2")
    block.conv2.register_forward_pre_hook(lambda _, args: seen.update(x=args[0].clone()))
    block.bn2.register_forward_hook(lambda _, args, out: seen.update(y=out.clone()))
    block.shortcut.register_forward_hook(lambda _, args, out: seen.update(z=out.clone()))
    with torch.no_grad():
        model(x)
    rows = seen["x"].movedim(1, -1).reshape(-1, 10)
    moments = calibration.moments[call.call]
    torch.testing.assert_close(moments[:-1, :-1], rows.T @ rows / len(rows))
    torch.testing.assert_close(moments[:-1, -1], rows.mean(0))
    torch.testing.assert_close(calibration.covariance(call.call), torch.cov(rows.T, correction=0))
    # The chain ends at the sum with the projection shortcut, before the ReLU.
    assert call.joins
    assert calibration.positions[call.call].shape == (10, 20)
    expected = (
        (seen["y"] + seen["z"]).flatten(2).gather(2, calibration.positions[call.call][:, None].expand(-1, 10, -1))
    )
    torch.testing.assert_close(calibration.targets[call.call], expected.transpose(1, 2))


def test_positions_are_drawn_without_replacement_and_by_seed():
    model = toy("plain")
    network = trace(model, torch.zeros(1, *SHAPE))
    first, again, other = (calibrate(model, network, images(6), seed=seed, rows=60) for seed in (0, 0, 1))
    number = network.calls[0].call
    assert torch.equal(first.positions[number], again.positions[number])
    assert not torch.equal(first.positions[number], other.positions[number])
    assert all(len(set(row.tolist())) == 10 for row in first.positions[number])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_solvable_layer_has_targets_and_the_network_stays_as_it_was(name):
    model = toy(name)
    network = trace(model, torch.zeros(1, *SHAPE))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    calibration = calibrate(model, network, images(5), seed=0, batch=2)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    wanted = {call.call for call in network.calls if solvable(call)}
    left_out = {"tokens, positions first": ("up", "down"), "overwritten input": ("conv",)}.get(name, ())
    wanted -= {call.call for call in network.calls if call.layer in left_out}
    assert set(calibration.targets) == set(calibration.positions) == wanted
    assert all(len(item) == 5 for item in calibration.targets.values())


def test_rows_that_are_not_in_the_order_of_the_images_are_left_out(caplog):
    model = toy("tokens, positions first")
    calibrate(model, trace(model, torch.zeros(1, *SHAPE)), images(4), seed=0)
    assert "up, down will be sliced, not reconstructed" in caplog.text


def test_tokens_are_sampled_like_positions():
    model = toy("tokens")
    network = trace(model, torch.zeros(1, *SHAPE))
    calibration = calibrate(model, network, images(6), seed=0, rows=30, batch=4)
    up = next(call for call in network.calls if call.layer == "up")
    assert calibration.targets[up.call].shape == (6, 5, 12)
    seen = {}
    model.up.register_forward_hook(lambda _, args, out: seen.update(y=out))
    with torch.no_grad():
        model(images(6))
    expected = seen["y"].gather(1, calibration.positions[up.call][:, :, None].expand(-1, -1, 12))
    torch.testing.assert_close(calibration.targets[up.call], expected)


def test_shared_layers_and_norms_are_not_solvable():
    network = trace(toy("reused layers"), torch.zeros(1, *SHAPE))
    assert {call.layer: solvable(call) for call in network.calls} == {
        "stem.0": True, "again": False, "left": False, "join": True, "head": True,
    }  # fmt: skip


def test_a_norm_without_statistics_ends_no_chain():
    network = trace(toy("unusual norms"), torch.zeros(1, *SHAPE))
    assert [call.norm for call in network.calls] == [None, None, "layers.7.weight", None, None]


def test_arrays_describe_a_calibration_without_copies():
    model = toy("plain")
    network = trace(model, torch.zeros(1, *SHAPE))
    calibration = calibrate(model, network, images(4), seed=0)
    arrays = frozen_arrays(calibration.to_arrays())
    again = Calibration.from_arrays(arrays, torch.device("cpu"))
    for kind in ("moments", "targets", "positions"):
        for call, item in getattr(calibration, kind).items():
            twin = getattr(again, kind)[call]
            assert torch.equal(item, twin)
            assert twin.data_ptr() == arrays[f"{kind}/{call}"].ctypes.data


def test_a_linear_layer_of_one_batch_norm_is_solvable():
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3)).eval()
    network = trace(model, torch.zeros(1, *SHAPE))
    calibration = calibrate(model, network, images(8), seed=0)
    with torch.no_grad():
        expected = model[2](model[1](images(8).flatten(1)))
    torch.testing.assert_close(calibration.targets[network.calls[0].call][:, 0], expected)
    assert np.prod(calibration.moments[network.calls[1].call].shape) == 100
