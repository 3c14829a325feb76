"""A residual branch without channels is a constant: exactly the masked one, at exactly the computed cost."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autoprune
from autoprune.core.candidate import Merge
from autoprune.errors import StructureError
from autoprune.models.cutting.surgery import Kept, cut, random_kept
from autoprune.models.modules.hollow import HollowBatchNorm2d, HollowConv2d
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.merging import cut_and_merge
from autoprune.models.storage.saved import load
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.depth import allowed_to_vanish, vanished, with_vanishing
from autoprune.models.verification.equivalence import random_structure, verified, verify
from experiments.benchmarks.removed_blocks import accuracies
from tests.models.saved_cut import saved_cut
from tests.models.toy_networks import Chain, Toy, fitted, images, residual, settled, toy, unit

ROOT = Path(__file__).parents[3]


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped or not), 1x1."""

    def __init__(self, channels: int, inner: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = unit(channels, inner, 1), unit(inner, inner, groups=groups)
        self.conv3, self.norm = nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv3(self.conv2(self.conv1(x)))))


class PreActivation(nn.Module):
    """Norms in front of convolutions that have biases; one is strided and padded as a string and a pair."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, inner, 3, padding="same")
        self.norm2, self.conv2 = nn.BatchNorm2d(inner), nn.Conv2d(inner, channels, 3, stride=2, padding=(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))
        return x[:, :, ::2, ::2] + out


def chain(*blocks: nn.Module) -> Toy:
    return Chain(nn.Sequential(unit(3, 6), *blocks), 6)


#: {network: (how it is made, its branches that may vanish)}.
NETWORKS = {
    "option A": (partial(residual, "a"), 3),
    "option B": (partial(residual, "b"), 3),
    "zero padding in the forward": (partial(residual, "pad"), 3),
    "bottleneck": (lambda: chain(Bottleneck(6, 5), Bottleneck(6, 4)), 2),
    "depthwise inside": (lambda: chain(Bottleneck(6, 8, groups=8)), 1),
    "pre-activation": (lambda: chain(PreActivation(6, 5), PreActivation(6, 7)), 2),
}


def traced(name):
    torch.manual_seed(0)
    model = settled(NETWORKS[name][0]())
    network = verified(model, trace(model, torch.zeros(1, 3, 12, 12)))
    return model, *with_vanishing(model, allowed_to_vanish(network, [group.name for group in network.groups]))


def without(network, gone):
    """The kept channels of a structure without these groups."""
    return Kept(tuple(np.arange(0 if index in gone else group.width) for index, group in enumerate(network.groups)))


@pytest.mark.parametrize("name", NETWORKS)
def test_cut_equals_masked_and_costs_what_was_computed_whatever_vanishes(name):
    model, network, refused = traced(name)
    able = [index for index, group in enumerate(network.groups) if group.may_vanish]
    assert len({network.groups[index].branch for index in able}) == NETWORKS[name][1]
    assert all(network.groups[network.index[group]].coupled for group in refused)
    rng = np.random.default_rng(1)
    for gone in (able[:1], able[-1:], able, [index for index in able if rng.random() < 0.5]):
        widths = [0 if index in gone else width for index, width in enumerate(random_structure(network, rng))]
        result = verify(model, network, kept=random_kept(network, type(network.dense)(tuple(widths)), rng))
        assert result.holds, (gone, result)


def test_the_groups_of_a_bottleneck_vanish_together():
    _, network, _ = traced("bottleneck")
    first, second = (network.index[name] for name in ("layers.1.conv1.0", "layers.1.conv2.0"))
    assert network.groups[first].branch == network.groups[second].branch == "layers.1.conv1.0"
    assert vanished(network, {first}) == vanished(network, {second}) == {first, second}


def test_nothing_of_a_removed_branch_is_multiplied():
    _, network, _ = traced("bottleneck")
    gone = vanished(network, {network.index["layers.1.conv1.0"]})
    structure = without(network, gone).structure
    by_layer = network.cost_model.by_layer(structure)
    dense = network.cost_model.by_layer(network.dense)
    for layer in ("layers.1.conv1.0", "layers.1.conv2.0", "layers.1.conv3"):
        assert by_layer[layer].macs == by_layer[layer].params == 0 < dense[layer].macs
    # What still does something stays: the norm makes the constant.
    assert by_layer["layers.1.norm"].params == dense["layers.1.norm"].params


def test_a_patch_mixer_loses_its_linear_layers():
    model = toy("tokens")
    network = verified(model, trace(model, torch.zeros(1, 3, 12, 12)))
    network, refused = with_vanishing(model, allowed_to_vanish(network, [group.name for group in network.groups]))
    assert [group.name for group in network.groups if group.may_vanish] == ["up"]
    assert not refused
    assert verify(model, network, kept=without(network, {network.index["up"]})).holds


class Found(Toy):
    """Puts out what scores high: other images have other numbers of it, or none."""

    def __init__(self, least: float) -> None:
        super().__init__(6)
        self.stem, self.block, self.least = nn.Conv2d(3, 6, 3), PreActivation(6, 5), least

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.head(self.block(self.stem(x)).permute(0, 2, 3, 1).flatten(0, 2))
        return rows[rows[:, 0] > self.least], rows.sum()


@pytest.mark.parametrize("least", [0.0, 1e9])
def test_a_branch_vanishes_where_the_number_of_outputs_depends_on_the_image(least):
    torch.manual_seed(0)
    model = settled(Found(least))
    network = trace(model, torch.zeros(1, 3, 12, 12))
    assert network.picks_by_value
    network, refused = with_vanishing(model, allowed_to_vanish(network, ["block.conv1"]))
    assert network.groups[network.index["block.conv1"]].may_vanish
    assert not refused


@pytest.mark.data
def test_reconstruction_makes_up_for_real_blocks_far_better_than_any_constant_alone(data_root, weights_root):
    weights = weights_root / "resnet20_b_cifar10.pt"
    found = accuracies(["layer2.2", "layer3.2"], images=150, data_root=data_root, weights=weights)
    assert found["reconstructed"] > max(found[name] for name in ("without", "masked", "mean")) + 0.1


@pytest.mark.parametrize("name", ["plain", "depthwise", "channel shuffle"])
def test_a_network_without_shortcuts_keeps_a_channel_of_every_group(name):
    model = toy(name)
    network = verified(model, trace(model, torch.zeros(1, 3, 12, 12)))
    network, refused = with_vanishing(model, allowed_to_vanish(network, [group.name for group in network.groups]))
    assert not any(group.may_vanish or group.branch for group in network.groups)
    assert refused.keys() == {group.name for group in network.groups}
    assert "nothing of the image would reach the output" in refused.values()


def test_of_parallel_branches_one_is_left():
    """Each branch of a concatenation may vanish, but something has to reach the layer behind."""

    class Parallel(Toy):
        def __init__(self) -> None:
            super().__init__(5)
            self.left, self.right, self.last = unit(3, 4), unit(3, 6), unit(10, 5)

        def body(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([self.left(x), self.right(x)], 1))

    model = settled(Parallel())
    network = trace(model, torch.zeros(1, 3, 12, 12))
    network, refused = with_vanishing(model, allowed_to_vanish(network, ["left.0", "right.0"]))
    assert [group.name for group in network.groups if group.may_vanish] == ["left.0"]
    assert refused == {"right.0": "nothing of the image would reach the output"}


def test_an_empty_group_that_may_not_vanish_is_refused():
    model = toy("plain")
    network = trace(model, torch.zeros(1, 3, 12, 12))
    with pytest.raises(StructureError, match="Kept channels of group"):
        cut(model, network, without(network, {0}))


@pytest.mark.parametrize("name", ["option A", "bottleneck", "pre-activation"])
def test_reconstruction_makes_the_constant_the_mean_of_what_is_missing(name):
    model, network, _ = traced(name)
    x = images(48)
    fitted(model, x)
    calibration = calibrate(model, network, x, seed=0)
    kept = without(network, [index for index, group in enumerate(network.groups) if group.may_vanish])

    def error(small):
        with torch.no_grad():
            return float((small(x) - model(x)).square().mean())

    masked_error = error(cut(model, network, kept))
    for merge in (Merge.LEAST_SQUARES, Merge.SEQUENTIAL):
        small = cut_and_merge(model, network, kept, merge=merge, calibration=calibration, images=x)
        assert error(small) < 0.7 * masked_error


def test_recalibrated_norms_put_out_the_mean_of_the_dense_branch():
    model, network, _ = traced("option B")
    x = images(48)
    fitted(model, x)
    kept = without(network, {network.index["layers.1.conv1"]})
    small = cut_and_merge(model, network, kept, merge=Merge.SLICE, images=x)
    seen: list[Tensor] = []
    for net in (model, small):
        net.layers[1].bn2.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
        with torch.no_grad():
            net(x)
    dense, constant = seen
    torch.testing.assert_close(constant[0, :, 0, 0], dense.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert torch.equal(constant, constant[:1, :, :1, :1].expand_as(constant))


def test_what_is_left_can_be_trained():
    model, network, _ = traced("bottleneck")
    gone = [index for index, group in enumerate(network.groups) if group.may_vanish]
    small = cut(model, network, without(network, gone))
    small.train()
    optimiser = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    before = small.layers[1].norm.bias.detach().clone()
    small(images(8)).square().mean().backward()
    optimiser.step()
    assert not torch.equal(before, small.layers[1].norm.bias)
    assert all(torch.isfinite(p).all() for p in small.parameters())


def test_it_is_saved_loaded_and_exported_with_a_branch_less(tmp_path):
    model, network, _ = traced("bottleneck")
    kept = without(network, [index for index, group in enumerate(network.groups) if group.may_vanish])
    small, shape = saved_cut(tmp_path, None, model=model, kept=kept, network=network)
    assert sum(isinstance(module, HollowConv2d | HollowBatchNorm2d) for module in small.modules()) == 10
    x = torch.randn(2, *shape)
    again = load(tmp_path, model=NETWORKS["bottleneck"][0]())
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    formats = ("onnx", "torchscript", "safetensors", "torch-export")
    entries = autoprune.export(tmp_path, formats, model=NETWORKS["bottleneck"][0]())
    assert all(entry["check"]["max_deviation"] <= entry["check"]["tolerance"] for entry in entries)
    torch.save(x, tmp_path / "x.pt")
    (tmp_path / "loader.py").write_text((tmp_path / "export/model.safetensors.py").read_text())
    script = (
        "import sys, torch; torch.set_num_threads(1); sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from loader import load_pruned, HollowConv2d\n"
        "from tests.models.verification.test_depth import NETWORKS\n"
        "from autoprune.models.storage.saved import load\n"
        "make = NETWORKS['bottleneck'][0]; x = torch.load('x.pt')\n"
        "pruned = [load_pruned(make(), 'export/model.safetensors'), load('.', model=make())]\n"
        "torch.save([model(x).detach() for model in pruned], 'y.pt')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path), str(ROOT)], check=True, cwd=tmp_path, timeout=120)
    with torch.no_grad():
        for found in torch.load(tmp_path / "y.pt"):
            torch.testing.assert_close(found, small(x))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "bottleneck"])
def test_whatever_vanishes_becomes_a_graph(tmp_path, name):
    model, network, _ = traced(name)
    kept = without(network, [index for index, group in enumerate(network.groups) if group.may_vanish])
    saved_cut(tmp_path, None, model=model, kept=kept, network=network)
    [entry] = autoprune.export(tmp_path, "torch-export", model=NETWORKS[name][0]())
    assert entry["check"]["batches"] == [1, 2, 7]


@pytest.mark.parametrize("options", [
    {"stride": 2, "padding": 1}, {"padding": "same", "dilation": 2}, {"padding": (2, 0), "kernel_size": (5, 1)},
    {"padding": 1, "padding_mode": "reflect"}, {"stride": (1, 3), "padding": "valid"},
    {"padding": "same", "kernel_size": 4},
])  # fmt: skip
def test_a_hollow_convolution_has_the_shape_and_the_bias_of_the_full_one(options):
    full = nn.Conv2d(2, 3, **{"kernel_size": 3, **options})
    hollow = HollowConv2d(2, 3, **{"kernel_size": 3, **options})
    hollow.load_state_dict(full.state_dict())
    x = torch.randn(2, 2, 11, 13)
    with torch.no_grad():
        full.weight.zero_()
        assert torch.equal(hollow(x), full(x))
