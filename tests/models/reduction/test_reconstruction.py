from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.candidate import Merge
from autoprune.core.structure import Structure
from autoprune.errors import ModelError
from autoprune.models.cutting.surgery import Kept, cut, keep_all, named_tensors, random_kept
from autoprune.models.network import TracedNetwork
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.merging import cut_and_merge
from autoprune.models.reduction.reconstruction import reconstruct
from autoprune.models.reduction.ridge import ridge_solution
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import outputs, verified
from tests.models.toy_networks import NETWORKS, SHAPE, SLICED, Chain, fitted, images, settled, toy, unit

DOUBLE = torch.float64


def prepared(name: str, *, count: int = 24) -> tuple[nn.Module, TracedNetwork, Tensor]:
    model = toy(name).double()
    network = verified(model, trace(model, torch.zeros(1, *SHAPE, dtype=DOUBLE)))
    x = images(count, dtype=DOUBLE)
    return fitted(model, x), network, x


def sequential(model: nn.Module, network: TracedNetwork, kept: Kept, x: Tensor, **options: float) -> nn.Module:
    calibration = calibrate(model, network, x, seed=0, batch=10)
    return reconstruct(cut(model, network, kept), network, kept, calibration, x, **options)


def error(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return sum(float((a - b).square().mean()) for a, b in zip(outputs(model, x), outputs(other, x), strict=True))


def without_information(model: nn.Module, network: TracedNetwork) -> Kept:
    """Silences the last channels of every group at its consumers' inputs; returns the channels that still speak."""
    kept = Kept(tuple(np.arange(max(1, group.width // 2)) for group in network.groups))
    masks = kept.masks(network)
    tensors = named_tensors(model)
    with torch.no_grad():
        for axis in network.axes:
            if axis.role == "produces" or (axis.role == "follows" and axis.names[0].endswith(("weight", "bias"))):
                layout = network.channels[axis.channels]
                dropped = np.setdiff1d(np.arange(len(layout.group)), layout.kept(masks))
                tensors[axis.names[0]].index_fill_(axis.axis, torch.from_numpy(dropped), 0.0)
    return kept


class TestExactness:
    # A norm without a scale makes a silent channel a constant, which no kernel reads the same at a padded border.
    @pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"unusual norms"}))
    def test_where_nothing_is_lost_the_dense_outputs_come_back(self, name):
        model, network, x = prepared(name)
        kept = without_information(model, network)
        fitted(model, x)
        small = sequential(model, network, kept, x, ridge=1e-9)
        assert error(small, model, x) < 1e-10

    def test_channels_that_are_combinations_of_others_are_taken_over(self):
        model, network, x = prepared("plain", count=40)
        # Without a ReLU in between, the last five channels are mixtures of the first three.
        model.layers[0][2] = nn.Identity()
        conv, norm = model.layers[0][0], model.layers[0][1]
        mix = torch.randn(5, 3, dtype=DOUBLE)
        with torch.no_grad():
            conv.weight[3:] = torch.einsum("kc,cijl->kijl", mix, conv.weight[:3])
            norm.running_mean.zero_(), norm.running_var.fill_(1.0), norm.weight.fill_(1.0), norm.bias.zero_()
        model.layers[1] = nn.Identity()
        network = trace(model, x[:1])
        kept = Kept((np.arange(3), *keep_all(network).indices[1:]))
        assert error(cut(model, network, kept), model, x) > 1e-3
        assert error(sequential(model, network, kept, x, ridge=1e-12), model, x) < 1e-12

    @pytest.mark.parametrize("name", NETWORKS)
    def test_nothing_changes_where_every_channel_is_kept(self, name):
        model, network, x = prepared(name)
        small = sequential(model, network, keep_all(network), x)
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), small.state_dict().values(), strict=True)
        )

    def test_with_fewer_rows_than_unknowns_the_dual_gives_the_same(self):
        U, target, start = (torch.randn(*shape, dtype=DOUBLE) for shape in ((7, 20), (7, 3), (20, 3)))
        damping = 0.1 * float((U * U).sum()) / 7 / 20
        expected = start + torch.linalg.solve(U.T @ U / 7 + damping * torch.eye(20), U.T @ (target - U @ start) / 7)
        torch.testing.assert_close(ridge_solution(U, target, start, ridge=0.1, floor=None), expected)

    def test_the_solution_minimises_the_damped_error(self):
        U, target, start = (torch.randn(*shape, dtype=DOUBLE) for shape in ((30, 4), (30, 2), (4, 2)))
        damping = 0.3 * float((U * U).sum()) / 30 / 4

        def loss(solution: Tensor) -> Tensor:
            return (U @ solution - target).square().sum() / 30 + damping * (solution - start).square().sum()

        found = ridge_solution(U, target, start, ridge=0.3, floor=None).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(found), found)
        assert float(gradient.abs().max()) < 1e-10

    def test_behind_a_relu_silent_units_only_have_to_stay_silent(self):
        U, start = torch.randn(60, 3, dtype=DOUBLE), torch.zeros(3, 1, dtype=DOUBLE)
        target = torch.randn(60, 1, dtype=DOUBLE)
        floor = torch.zeros_like(target)

        def behind(solution: Tensor) -> float:
            return float((torch.relu(U @ solution) - torch.relu(target)).square().mean())

        plain = ridge_solution(U, target, start, ridge=1e-6, floor=None)
        assert behind(ridge_solution(U, target, start, ridge=1e-6, floor=floor)) < behind(plain)


class TestQuality:
    @pytest.mark.parametrize("name", [
        "residual with projections", "residual with channel maps", "concatenation", "dense blocks", "flattened",
        "depthwise", "squeeze and excite", "functional weights", "transposed and resized", "chunks",
    ])  # fmt: skip
    def test_it_beats_slicing_with_recalibration(self, name):
        model, network, x = prepared(name, count=200)
        structure = Structure(tuple(max(1, round(0.6 * group.width)) for group in network.groups))
        kept = random_kept(network, structure, np.random.default_rng(0))
        calibration = calibrate(model, network, x, seed=0)
        sliced, solved = (
            cut_and_merge(model, network, kept, merge=merge, calibration=calibration, images=x)
            for merge in (Merge.SLICE, Merge.SEQUENTIAL)
        )
        fresh = images(60, seed=9, dtype=DOUBLE)
        assert error(solved, model, fresh) < error(sliced, model, fresh)

    @pytest.mark.parametrize("name", ["residual with projections", "depthwise", "dense blocks", "flattened"])
    def test_running_statistics_are_those_that_training_would_see(self, name):
        model, network, x = prepared(name)
        structure = Structure(tuple(max(1, group.width // 2) for group in network.groups))
        small = sequential(model, network, random_kept(network, structure, np.random.default_rng(0)), x)
        trained = copy.deepcopy(small).train()
        norms = [m for m in trained.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            trained(x)
        for (key, before), after in zip(small.named_buffers(), dict(trained.named_buffers()).values(), strict=True):
            if "running" in key:
                torch.testing.assert_close(before, after, rtol=1e-2, atol=1e-3)

    def test_the_split_between_kernel_and_norm_changes_no_output(self):
        model, network, x = prepared("plain")
        kept = Kept((np.arange(4), *keep_all(network).indices[1:]))
        small = sequential(model, network, kept, x)
        with torch.no_grad():
            for block in (small.layers[2], small.layers[3]):
                conv, norm = block[0], block[1]
                fused = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
                z = torch.randn(2, conv.in_channels, 6, 6, dtype=DOUBLE)
                torch.testing.assert_close(norm(conv(z)), fused(z))
                # The norm's scale is that of the dense network; its statistics are of its own input.
                dense = model.get_submodule("layers.2.1" if block is small.layers[2] else "layers.3.1")
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                torch.testing.assert_close(scale, dense.weight / (dense.running_var + dense.eps).sqrt())


class Twice(nn.Module):
    """A network that sees an image and its mirror image, as test-time averaging does, and classifies their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.views = Chain(nn.Sequential(unit(3, 8), unit(8, 8), unit(8, 6)), 6)
        self.last = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.views(x) + self.views(1.5 * x.flip(-1)))


class TestRepeatedNorms:
    def cut_in_half(self) -> tuple[nn.Module, nn.Module, Tensor]:
        torch.manual_seed(0)
        model, x = settled(Twice()).double(), images(64, dtype=DOUBLE)
        fitted(model, x)
        network = trace(model, x[:1])
        assert len(network.repeated_norms) == 3
        structure = Structure(tuple(group.width // 2 for group in network.groups))
        kept = random_kept(network, structure, np.random.default_rng(0))
        return model, sequential(model, network, kept, x), x

    def test_they_get_the_mean_of_the_statistics_of_all_of_their_calls(self):
        _, small, x = self.cut_in_half()
        norms = [module for module in small.modules() if isinstance(module, nn.BatchNorm2d)]
        found = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
        fitted(small, x)
        for norm, (mean, variance) in zip(norms, found, strict=True):
            torch.testing.assert_close(norm.running_mean, mean)
            torch.testing.assert_close(norm.running_var, variance)

    def test_what_lies_behind_is_solved_on_the_statistics_that_stay(self):
        _, small, x = self.cut_in_half()
        norm = small.last[1]
        read: list[Tensor] = []
        norm.register_forward_pre_hook(lambda _, args: read.append(args[0]))
        with torch.no_grad():
            small(x)
        torch.testing.assert_close(norm.running_mean, read[0].mean(0))
        torch.testing.assert_close(norm.running_var, read[0].var(0))

    def test_norms_in_front_of_every_cut_keep_theirs(self):
        torch.manual_seed(0)
        model, x = settled(Twice()).double(), images(8, dtype=DOUBLE)
        network = trace(model, x[:1])
        kept = list(keep_all(network).indices)
        kept[network.index["last.0"]] = np.arange(3)
        small = sequential(model, network, Kept(tuple(kept)), x)
        before, after = model.views.state_dict(), small.views.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


class TestRobustness:
    @pytest.mark.parametrize("name", [*NETWORKS, *SLICED])
    def test_the_dense_network_is_never_modified(self, name):
        model, network, x = prepared(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        structure = Structure(tuple(max(1, group.width // 2) for group in network.groups))
        small = sequential(model, network, random_kept(network, structure, np.random.default_rng(0)), x)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert all(bool(item.isfinite().all()) for item in outputs(small, x))

    def test_an_input_that_is_overwritten_later_is_not_solved_from(self):
        model, network, x = prepared("overwritten input")
        kept = Kept((np.arange(4), *keep_all(network).indices[1:]))
        small = sequential(model, network, kept, x)
        assert torch.equal(small.conv.weight, model.conv.weight[:, :4])
        assert not torch.equal(small.side.weight, model.side.weight[:, :4])

    def test_a_forward_that_depends_on_the_batch_size_falls_back_to_slicing(self):
        model = toy("plain")
        network = trace(model, torch.zeros(1, *SHAPE))
        x = images(16)
        calibration = calibrate(model, network, x, seed=0)
        kept = Kept((np.arange(4), *keep_all(network).indices[1:]))

        def extra(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if len(args[0]) > 8:
                torch.nn.functional.conv2d(args[0], torch.ones(1, 3, 1, 1))

        model.register_forward_pre_hook(extra)
        with pytest.raises(ModelError, match="does not run in its place on 16 images"):
            reconstruct(cut(model, network, kept), network, kept, calibration, x)
        with pytest.warns(RuntimeWarning, match="sliced and recalibrated instead"):
            small = cut_and_merge(model, network, kept, merge=Merge.SEQUENTIAL, calibration=calibration, images=x)
        expected = cut_and_merge(model, network, kept, merge=Merge.SLICE, images=x)
        assert error(small, expected, x) == 0

    def test_a_dense_forward_that_depends_on_the_batch_size_yields_no_wrong_targets(self, caplog):
        from tests.models.toy_networks import BatchDependent, settled

        model = settled(BatchDependent())
        network = trace(model, torch.zeros(1, *SHAPE))
        calibration = calibrate(model, network, images(6), seed=0)
        assert set(calibration.targets) == {network.calls[0].call}
        assert "will be sliced, not reconstructed" in caplog.text
