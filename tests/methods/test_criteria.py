from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from autoprune.data.bundle import bundle_from
from autoprune.data.images import Images, IntArray
from autoprune.errors import BudgetError, ConfigError, ModelError
from autoprune.methods.allocation import allocated, keep_highest
from autoprune.methods.base import Subject
from autoprune.methods.criteria import L1, L2, Fpgm, HRank, OrthoFisher, Taylor, Uniform, distance_sums, map_ranks
from autoprune.methods.registry import make_method, name_of
from autoprune.models.cutting.surgery import Kept, cut, keep_all, named_tensors
from tests.methods.small_subject import small_subject
from tests.models.toy_networks import NETWORKS, UNPROVED, images

QUICK = {Taylor: {"images": 16, "batch_size": 8}, OrthoFisher: {"images": 16}, HRank: {"images": 8}}
CRITERIA = (L1, L2, Fpgm, Taylor, HRank, OrthoFisher)


def classifiers() -> list[str]:
    """Returns the networks that give logits, can be differentiated, and whose trace needs no repair."""
    return [name for name in NETWORKS if name not in {"several heads", "overwritten input", *UNPROVED}]


def group(given: Subject, name: str) -> int:
    return given.network.index[name]


class TestNorms:
    def test_a_filter_of_one_layer_is_summed_weight_by_weight(self):
        given = small_subject("plain")
        index = group(given, "layers.2.0")
        weight = given.model.layers[2][0].weight.detach()
        absolute, squared = [0.0] * 10, [0.0] * 10
        for out, read, row, column in itertools.product(*map(range, weight.shape)):
            value = float(weight[out, read, row, column])
            absolute[out] += abs(value)
            squared[out] += value**2
        np.testing.assert_allclose(L1().scores(given)[index], absolute, rtol=1e-5)
        np.testing.assert_allclose(L2().scores(given)[index], np.sqrt(squared), rtol=1e-5)

    def test_a_channel_of_a_residual_stream_is_the_concatenation_of_its_producers(self):
        given = small_subject("residual with projections")
        index = group(given, "layers.0.0")
        producers = [given.model.layers[0][0].weight, given.model.layers[1].conv2.weight]
        rows = torch.cat([weight.detach().flatten(1) for weight in producers], dim=1).double()
        np.testing.assert_allclose(L1().scores(given)[index], rows.abs().sum(1))
        np.testing.assert_allclose(L2().scores(given)[index], rows.norm(dim=1))
        far = torch.stack([(rows - row).norm(dim=1).sum() for row in rows])
        np.testing.assert_allclose(Fpgm().scores(given)[index], far)

    def test_biases_and_norms_are_no_weights_of_a_filter(self):
        given = small_subject("flattened")
        before = [L1().scores(given), L2().scores(given), Fpgm().scores(given)]
        with torch.no_grad():
            for value in given.model.parameters():
                if value.ndim == 1:
                    value.add_(3.0)
        after = [L1().scores(given), L2().scores(given), Fpgm().scores(given)]
        for old, new in zip(before, after, strict=True):
            for first, second in zip(old, new, strict=True):
                np.testing.assert_array_equal(first, second)


class TestGeometricMedian:
    def test_distances_are_summed_pair_by_pair(self):
        rows = np.random.default_rng(0).normal(size=(7, 5))
        naive = [sum(float(np.sqrt(((a - b) ** 2).sum())) for b in rows) for a in rows]
        np.testing.assert_allclose(distance_sums(rows), naive)

    def test_the_filter_in_the_middle_goes_first_and_the_smallest_stays(self):
        # On a line at 1, 5, 6, 7, 11: the median 6 goes, the smallest norm is as far out as the largest.
        rows = np.array([[1.0], [5.0], [6.0], [7.0], [11.0]])
        assert int(np.argmin(distance_sums(rows))) == 2
        assert distance_sums(rows).tolist() == [25, 13, 12, 13, 25]

    def test_filters_that_all_but_coincide_keep_their_digits(self):
        rows = np.ones((3, 4)) * 1e3
        rows[1, 0] += 1e-6
        np.testing.assert_allclose(distance_sums(rows), [1e-6, 2e-6, 1e-6], rtol=1e-3)

    def test_the_published_rate_is_rounded_down_in_every_group_whatever_the_budget(self):
        given = small_subject("plain", budget="95%flops")
        found = Fpgm(as_published=True).prune(given)
        assert [len(index) for index in found.kept.indices] == [
            width - int(0.4 * width) for width in given.space.dense.widths
        ]
        overridden = Fpgm(as_published=True, rate=0.75).prune(given)
        assert [len(index) for index in overridden.kept.indices] == [
            width - int(0.75 * width) for width in given.space.dense.widths
        ]
        scores = Fpgm().scores(given)
        for row, kept in zip(scores, found.kept.indices, strict=True):
            assert row[kept].min() >= np.delete(row, kept).max()

    @pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
    def test_a_rate_that_is_no_share_is_refused(self, rate):
        with pytest.raises(ConfigError, match="'rate' of fpgm"):
            Fpgm(rate=rate)


class TestTaylor:
    def test_it_is_activation_times_gradient_squared_and_averaged_over_batches(self):
        given = small_subject("plain")
        found = Taylor(images=8, batch_size=4).scores(given)
        expected = np.zeros(10)
        for start in (0, 4):
            activations, loss = with_activations(given, np.arange(8, 16)[start : start + 4], "layers.2")
            gradient = torch.autograd.grad(loss, activations)[0]
            for channel in range(10):
                total = 0.0
                for image in range(4):
                    total += float((activations[image, channel] * gradient[image, channel]).sum())
                expected[channel] += total**2 / 2
        np.testing.assert_allclose(found[group(given, "layers.2.0")], expected, rtol=1e-3, atol=1e-12)

    @pytest.mark.parametrize("name", ["residual with projections", "depthwise", "concatenation", "squeeze and excite"])
    def test_a_gate_is_the_slope_towards_the_network_without_the_channel(self, name):
        given = small_subject(name)
        given.model.double()
        given = replace(
            given, data=replace(given.data, train=Doubled(given.data.train)), calibration_indices=np.arange(6)
        )
        scores = Taylor(images=6, batch_size=6).scores(given)
        reads = [axis for axis in given.network.axes if axis.role == "consumes"]
        for index, channel in ((0, 0), (0, 3), (1, 2)):
            losses = []
            for gate in (1 - 1e-5, 1 + 1e-5, 0.0):
                model = cut(given.model, given.network, all_of(given))
                tensors = named_tensors(model)
                with torch.no_grad():
                    for axis in reads:
                        layout = given.network.channels[axis.channels]
                        mine = np.flatnonzero((layout.group == index) & (layout.channel == channel))
                        tensors[axis.names[0]].movedim(axis.axis, 0)[mine] *= gate
                    losses.append(float(loss_of(given, model, np.arange(6))))
            slope = (losses[1] - losses[0]) / 2e-5
            assert scores[index][channel] == pytest.approx(slope**2, rel=1e-3, abs=1e-12)
            kept = list(all_of(given).indices)
            kept[index] = np.delete(kept[index], channel)
            without = cut(given.model, given.network, replace(all_of(given), indices=tuple(kept)))
            with torch.no_grad():
                assert float(loss_of(given, without, np.arange(6))) == pytest.approx(losses[2], rel=1e-9)

    def test_a_channel_that_nothing_reads_is_worth_nothing(self):
        given = small_subject("plain")
        with torch.no_grad():
            given.model.layers[2][0].weight[:, 4] = 0
        scores = Taylor(**QUICK[Taylor]).scores(given)[group(given, "layers.0.0")]
        assert scores[4] == 0 < np.delete(scores, 4).min()

    def test_the_dense_network_is_left_as_it_is(self):
        given = small_subject("plain")
        for parameter in given.model.parameters():
            parameter.requires_grad_(False)
        before = {name: value.clone() for name, value in given.model.state_dict().items()}
        Taylor(**QUICK[Taylor]).prune(given)
        assert all(torch.equal(before[name], value) for name, value in given.model.state_dict().items())
        assert not any(parameter.requires_grad for parameter in given.model.parameters())
        assert all(parameter.grad is None for parameter in given.model.parameters())


class TestOrthoFisher:
    def test_weights_times_mean_gradient_are_summed_then_squared_bias_included(self):
        given = small_subject("flattened")
        found = OrthoFisher(images=24, batch_size=9).scores(given)[group(given, "conv2")]
        model = given.model
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        loss = loss_of(given, model, given.training)
        weight, bias = torch.autograd.grad(loss, [model.conv2.weight, model.conv2.bias])
        for channel in range(8):
            total = float(model.conv2.bias[channel] * bias[channel])
            for read, row, column in itertools.product(range(6), range(3), range(3)):
                total += float(model.conv2.weight[channel, read, row, column] * weight[channel, read, row, column])
            assert found[channel] == pytest.approx(total**2, rel=1e-3, abs=1e-14)

    def test_the_batch_size_does_not_matter(self):
        given = small_subject("residual with projections")
        found = [OrthoFisher(images=24, batch_size=size).scores(given) for size in (3, 24)]
        for first, second in zip(*found, strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-2, atol=1e-9)

    def test_producers_of_one_channel_add_up_within_the_square(self):
        given = small_subject("residual with projections")
        found = OrthoFisher(images=24).scores(given)[group(given, "layers.0.0")]
        layers = [given.model.layers[0][0].weight, given.model.layers[1].conv2.weight]
        gradients = torch.autograd.grad(loss_of(given, given.model, given.training), layers)
        parts = [(w * g).flatten(1).sum(1).detach() for w, g in zip(layers, gradients, strict=True)]
        np.testing.assert_allclose(found, (parts[0] + parts[1]) ** 2, rtol=1e-2, atol=1e-9)


class TestHRank:
    def test_ranks_are_those_of_the_relus_output_image_by_image(self):
        given = small_subject("plain")
        found = HRank(images=5).scores(given)[group(given, "layers.2.0")]
        maps, _ = with_activations(given, np.arange(8, 13), "layers.2")
        naive = [
            np.mean([np.linalg.matrix_rank(maps[image, channel].detach().numpy()) for image in range(5)])
            for channel in range(10)
        ]
        np.testing.assert_allclose(found, naive)
        assert len(set(naive)) > 1

    def test_a_map_is_as_elongated_as_the_images(self):
        maps = torch.eye(4)[:2].reshape(1, 1, 8)
        assert map_ranks(maps, aspect=0.5).item() == 2
        assert map_ranks(torch.ones(1, 1, 8), aspect=0.5).item() == 1
        assert map_ranks(torch.zeros(1, 1, 9), aspect=1.0).item() == 0
        assert map_ranks(torch.arange(7.0).reshape(1, 1, 7), aspect=1.0).item() == 1

    def test_maps_of_one_position_leave_the_order_to_the_norms(self):
        given = small_subject("flattened")
        index = group(given, "hidden")
        np.testing.assert_array_equal(HRank(images=4).scores(given)[index], L2().scores(given)[index])


class TestAllocation:
    def test_global_widths_follow_one_threshold_on_the_scores(self):
        given = small_subject("plain", budget="60%flops")
        rng = np.random.default_rng(0)
        scores = [rng.exponential(size=width) * 10.0**index for index, width in enumerate(given.space.dense.widths)]
        found = allocated(given.space, scores, allocation="global")
        kept = keep_highest(scores, found.widths).indices
        dropped = [np.delete(row, index) for row, index in zip(scores, kept, strict=True)]
        lowest = min(float(row[index].min()) for row, index in zip(scores, kept, strict=True))
        # The projection adds or takes single channels, no more.
        assert sum(int((row > lowest).sum()) for row in dropped) <= 4
        assert found != given.space.uniform()

    @pytest.mark.parametrize(("normalised_by", "scale"), [("mean", np.mean), ("norm", np.linalg.norm)])
    def test_normalised_scores_do_not_depend_on_a_groups_unit(self, normalised_by, scale):
        given = small_subject("plain")
        rng = np.random.default_rng(1)
        scores = [rng.exponential(size=width) for width in given.space.dense.widths]
        scaled = [row * 100.0**index for index, row in enumerate(scores)]
        by_hand = [row / scale(row) for row in scores]
        expected = allocated(given.space, by_hand, allocation="global")
        for rows in (scores, scaled):
            assert allocated(given.space, rows, allocation="global", normalised_by=normalised_by) == expected
        assert allocated(given.space, scaled, allocation="global") != expected

    def test_the_unit_of_all_scores_does_not_matter_however_small(self):
        given = small_subject("plain")
        scores = [np.random.default_rng(2).exponential(size=width) ** 20 for width in given.space.dense.widths]
        tiny = [row * 1e-200 for row in scores]
        assert allocated(given.space, scores, allocation="global") == allocated(given.space, tiny, allocation="global")

    def test_a_dead_group_is_cut_to_its_floor_and_breaks_nothing(self):
        given = small_subject("plain", budget="40%flops")
        scores = [np.ones(width) for width in given.space.dense.widths]
        scores[1][:] = 0
        for normalised_by in ("mean", "norm", "none"):
            found = allocated(given.space, scores, allocation="global", normalised_by=normalised_by)
            assert given.space.is_legal(found)
            assert found.widths[1] <= given.space.uniform().widths[1]

    def test_of_equal_scores_the_first_channels_stay(self):
        assert keep_highest([np.array([1.0, 2.0, 2.0, 1.0, 2.0])], [3]).indices[0].tolist() == [1, 2, 4]
        assert keep_highest([np.array([1.0, 2.0, 2.0, 1.0, 2.0])], [4]).indices[0].tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize("name", classifiers())
def test_every_criterion_keeps_its_best_channels_on_the_budget_of_any_network(name):
    try:
        given = small_subject(name, budget="70%flops")
    except BudgetError:
        given = small_subject(name, budget="95%flops")
    x = images(3, seed=1)
    for kind in CRITERIA:
        for allocation in ("uniform", "global"):
            method = kind(allocation=allocation, **QUICK.get(kind, {}))
            found = method.prune(given)
            assert given.space.is_legal(found.kept.structure), kind
            if allocation == "uniform":
                assert found.kept.structure == given.space.uniform()
            with torch.no_grad():
                assert torch.isfinite(cut(found.model, given.network, found.kept)(x)).all()
            for row, kept in zip(method.scores(given), found.kept.indices, strict=True):
                left = np.delete(row, kept)
                assert not len(left) or row[kept].min() >= left.max()


def test_uniform_keeps_the_head_of_the_rankings():
    given = small_subject("residual with projections")
    found = Uniform().prune(given)
    assert found.kept.structure == given.space.uniform()
    for ranking, kept in zip(given.rankings, found.kept.indices, strict=True):
        assert sorted(ranking.order[: len(kept)].tolist()) == kept.tolist()


def test_the_same_seed_draws_the_same_images_and_the_holdout_is_never_looked_at():
    given = small_subject("plain")
    found = [Taylor(images=16).scores(replace(given, seed=seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert (found[0][0] != found[2][0]).any()
    spoilt = given.data.train.take(range(len(given.data.train))).clone()
    spoilt[given.holdout] = 1e9
    labels = torch.from_numpy(given.data.train.labels)
    blind = replace(
        given, data=bundle_from((spoilt, labels), (spoilt[:2], labels[:2])), images=spoilt[given.calibration_indices]
    )
    for method in (Taylor(images=1000), OrthoFisher(), HRank()):
        for row, other in zip(method.scores(blind), method.scores(given), strict=True):
            np.testing.assert_array_equal(row, other)


@pytest.mark.parametrize("name", ["l1", "l2", "taylor", "hrank", "orthoreg", "uniform"])
def test_without_a_published_setting_as_published_is_refused(name):
    with pytest.raises(
        ConfigError, match=rf"^{name} has no published setting .* Leave --as-published \(as_published in"
    ):
        make_method(name, {"as_published": True})


def test_an_unknown_allocation_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'allocation' of l1 is 'globl'\. Did you mean 'global'\?"):
        L1(allocation="globl")
    with pytest.raises(ConfigError, match=r"'normalised_by' of taylor is 'means'\. Did you mean 'mean'\?"):
        Taylor(normalised_by="means")


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (Taylor, "images"),
        (Taylor, "batch_size"),
        (OrthoFisher, "images"),
        (OrthoFisher, "batch_size"),
        (HRank, "images"),
    ],
)
def test_no_images_are_refused(kind, option):
    with pytest.raises(ConfigError, match=rf"'{option}' of {name_of(kind())} is 0"):
        kind(**{option: 0})


def test_a_network_that_overwrites_what_its_backward_needs_says_so():
    with pytest.raises(ModelError, match="overwrites in place"):
        Taylor().prune(small_subject("overwritten input", budget="70%flops"))
    assert L1().prune(small_subject("overwritten input", budget="70%flops")).kept


def test_scores_that_are_not_finite_name_the_group():
    given = small_subject("plain")
    with torch.no_grad():
        given.model.layers[2][0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"'layers\.2\.0' cannot be ranked"):
        L1().prune(given)


def with_activations(given: Subject, order: np.ndarray, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what a unit hands on, in the graph of the loss."""
    seen = []
    handle = given.model.get_submodule(layer).register_forward_hook(lambda _module, _args, out: seen.append(out))
    loss = loss_of(given, given.model, order)
    handle.remove()
    return seen[0], loss


def loss_of(given: Subject, model: nn.Module, order: np.ndarray) -> torch.Tensor:
    labels = torch.from_numpy(np.asarray(given.data.train.labels)[order])
    return functional.cross_entropy(model(given.data.train.take(order)), labels)


class Doubled:
    """Images in double precision."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self.labels = images.labels

    def __len__(self) -> int:
        return len(self._images)

    def take(self, indices: IntArray) -> torch.Tensor:
        return self._images.take(indices).double()


def all_of(given: Subject) -> Kept:
    return keep_all(given.network)
