from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoprune.models.reduction import elimination
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.elimination import Consumer, Reader, elimination_order, patch_moments, readers_of
from autoprune.models.reduction.selection import rank_groups
from autoprune.models.tracing.tracer import trace
from tests.models.toy_networks import SHAPE, images, toy

DOUBLE = torch.float64


def reader(channels: int, pixels: int, *, seed: int = 0, outputs: int = 3) -> Reader:
    generator = torch.Generator().manual_seed(seed)
    unknowns = channels * pixels + 1
    patches = torch.randn(4 * unknowns, unknowns, generator=generator, dtype=DOUBLE)
    patches[:, -1] = 1
    kernel = torch.randn(unknowns, outputs, generator=generator, dtype=DOUBLE)
    rows = torch.arange(channels)[:, None] + torch.arange(pixels) * channels
    return Reader(Consumer(patches.T @ patches / len(patches), kernel), rows)


def lost(given: Reader, kept: list[int]) -> float:
    """By the definition: the damped error of the best kernel on the kept channels, relative to the output."""
    moments, kernel = given.consumer.moments.clone(), given.consumer.kernel
    moments.diagonal().add_(given.consumer.damping * moments.diagonal().mean())
    rows = torch.cat([given.rows[kept].flatten(), torch.tensor([len(kernel) - 1])])
    best = torch.linalg.solve(moments[rows][:, rows], moments[rows] @ kernel)
    whole = (kernel * (moments @ kernel)).sum()
    return float(1 - (best * (moments[rows] @ kernel)).sum() / whole)


@pytest.mark.parametrize("pixels", [1, 4])
def test_each_step_drops_the_channel_that_is_missed_least_by_all_consumers(pixels):
    readers = [reader(6, pixels, seed=seed) for seed in range(2)]
    found = elimination_order(readers)
    assert found is not None
    order = found.tolist()
    assert sorted(order) == list(range(6))
    for count in range(6, 1, -1):
        left, losses = order[:count], {}
        for other in left:
            losses[other] = sum(lost(item, [channel for channel in left if channel != other]) for item in readers)
        assert losses[order[count - 1]] == pytest.approx(min(losses.values()))


def test_of_many_channels_several_go_at_a_time_in_nearly_the_same_order(monkeypatch):
    readers = [reader(24, 4)]
    exact = elimination_order(readers).tolist()
    monkeypatch.setattr(elimination, "ONE_BY_ONE", 8)
    found = elimination_order(readers).tolist()
    assert sorted(found) == list(range(24))
    assert len(set(found[:12]) & set(exact[:12])) >= 11
    assert len(set(found[:8]) & set(exact[:8])) >= 7


def test_channels_that_others_predict_go_before_those_that_nothing_can_replace():
    patches = torch.randn(500, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    patches[:, 1] = patches[:, 0]
    patches[:, -1] = 1
    given = Reader(Consumer(patches.T @ patches / 500, torch.ones(5, 2, dtype=DOUBLE)), torch.arange(4)[:, None])
    assert elimination_order([given])[-1] in (0, 1)


def test_silent_channels_have_an_order():
    nothing = Consumer(torch.zeros(4, 4, dtype=DOUBLE), torch.zeros(4, 2, dtype=DOUBLE))
    silent = Reader(nothing, torch.arange(3)[:, None])
    assert sorted(elimination_order([silent]).tolist()) == [0, 1, 2]


def test_patch_moments_are_those_of_unfolded_patches_in_any_batches():
    model, x = toy("plain").double(), images(6, dtype=DOUBLE)
    network = trace(model, torch.zeros(1, *SHAPE, dtype=DOUBLE))
    calibration = calibrate(model, network, x, seed=0, rows=10**6)
    found = patch_moments(model, network, calibration, x, batch=4)
    seen: dict[str, Tensor] = {}
    call = next(call for call in network.calls if call.call in found)
    layer = model.get_submodule(call.layer)
    layer.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    with torch.no_grad():
        model(x)
    patches = torch.nn.functional.unfold(seen["x"], layer.kernel_size, padding=layer.padding, stride=layer.stride)
    rows = patches.unflatten(1, (-1, 9)).transpose(1, 2).flatten(1, 2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found[call.call][:-1, :-1], rows.T @ rows / len(rows))
    torch.testing.assert_close(found[call.call][:-1, -1], rows.mean(0))


def test_wide_patches_are_judged_by_their_pixels(monkeypatch):
    model, x = toy("plain"), images(6)
    network = trace(model, torch.zeros(1, *SHAPE))
    calibration = calibrate(model, network, x, seed=0)
    monkeypatch.setattr(elimination, "WIDEST_PATCH", 0)
    for group, readers in zip(network.groups, readers_of(model, network, calibration, x), strict=True):
        assert {len(item.consumer.moments) for item in readers} == {group.width + 1}
        assert sorted(elimination_order(readers).tolist()) == list(range(group.width))


def test_groups_of_very_wide_consumers_keep_the_order_of_norms(monkeypatch):
    monkeypatch.setattr(elimination, "WIDEST_CONSUMER", 5)
    assert elimination_order([reader(5, 1), reader(5, 2)]) is None
    model, x = toy("plain"), images(6)
    network = trace(model, torch.zeros(1, *SHAPE))
    calibration = calibrate(model, network, x, seed=0)
    found = rank_groups(model, network, calibration, images=x)
    for ours, norms in zip(found, rank_groups(model, network, calibration), strict=True):
        assert ours.order.tolist() == norms.order.tolist()
