"""Attention heads: stand-ins compute what they stand in for, heads are cut whole, and what cannot be says why."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from autoprune.core.candidate import Merge
from autoprune.core.structure import Structure
from autoprune.models.costing.counting import count
from autoprune.models.cutting.attention import adapt
from autoprune.models.cutting.surgery import cut, random_kept
from autoprune.models.modules.attention import HeadAttention
from autoprune.models.network import Role, TracedNetwork
from autoprune.models.reduction.calibration import calibrate
from autoprune.models.reduction.merging import cut_and_merge
from autoprune.models.reduction.selection import keep_best, rank_groups
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import random_structure, restricted, verified, verify
from tests.models.attention_networks import HEAD_DIM, HEADS, WIDTH, Torchs, Transformer
from tests.models.toy_networks import SHAPE, images, settled, toy


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=12, patch_size=6, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=20, num_classes=5
    )


def swin(**options: Any) -> nn.Module:
    """Windows of 4 on maps of 9 and 5: padded, shifted, and at last as large as the map."""
    return torchvision.models.SwinTransformer(
        patch_size=[2, 2], embed_dim=12, depths=[2, 2], num_heads=[2, 3], window_size=[4, 4], num_classes=5, **options
    )


def swin_v2() -> nn.Module:
    swin_transformer = torchvision.models.swin_transformer
    return swin(block=swin_transformer.SwinTransformerBlockV2, downsample_layer=swin_transformer.PatchMergingV2)


def maxvit() -> nn.Module:
    return torchvision.models.MaxVit(
        input_size=(16, 16), stem_channels=8, partition_size=2, block_channels=[8, 12], block_layers=[1, 1],
        head_dim=4, stochastic_depth_prob=0.1, num_classes=5,
    )  # fmt: skip


#: {name: (network, extent of its images, {group of heads: heads})}
FAMILIES: dict[str, tuple[Any, int, dict[str, int]]] = {
    "vit": (vit, 12, {f"encoder.layers.encoder_layer_{index}.self_attention.in_proj": 4 for index in range(2)}),
    "swin": (
        swin,
        18,
        {f"features.{stage}.{block}.attn.qkv": heads for stage, heads in ((1, 2), (3, 3)) for block in range(2)},
    ),
    "swin v2": (
        swin_v2,
        18,
        {f"features.{stage}.{block}.attn.qkv": heads for stage, heads in ((1, 2), (3, 3)) for block in range(2)},
    ),
    "maxvit": (
        maxvit,
        16,
        {
            f"blocks.{stage}.layers.0.layers.{kind}_attention.attn_layer.1.to_qkv": heads
            for stage, heads in ((0, 2), (1, 3))
            for kind in ("window", "grid")
        },
    ),
}


def family(name: str) -> tuple[nn.Module, tuple[int, int, int], dict[str, int]]:
    """Returns a family's smallest network with every parameter away from its initial zeros and ones."""
    make, side, heads = FAMILIES[name]
    torch.manual_seed(0)
    model = settled(make())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model, (3, side, side), heads


def shuffled(model: nn.Module) -> nn.Module:
    """Gives every bias values other than its initial zeros."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def heads_of(network: TracedNetwork, wanted: dict[str, int]) -> dict[str, int]:
    return {group.name: group.width for group in network.groups if group.name in wanted}


class TestFamilies:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_an_adapted_network_computes_the_same_from_the_same_weights(self, name):
        model, shape, _ = family(name)
        x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
        before = copy.deepcopy(model.state_dict())
        adapted = adapt(model)
        with torch.no_grad():
            torch.testing.assert_close(adapted(x), model(x), rtol=1e-5, atol=1e-5)
        assert adapted is not model
        assert {key: value.shape for key, value in adapted.state_dict().items()} == {
            key: value.shape for key, value in before.items()
        }
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        fresh = adapt(FAMILIES[name][0]().eval())
        fresh.load_state_dict(before)
        with torch.no_grad():
            assert torch.equal(fresh(x), adapted(x))

    @pytest.mark.parametrize("name", FAMILIES)
    def test_heads_are_groups_and_every_cut_of_them_is_proved(self, name):
        model, shape, heads = family(name)
        model = adapt(model)
        network = trace(model, torch.zeros(1, *shape))
        assert heads_of(network, heads) == heads
        assert not any(group.coupled for group in network.groups if group.name in heads)
        assert count(model, (1, *shape)) == network.cost_model.dense
        for seed in range(3):
            found = verify(model, network, seed=seed)
            assert found.deviation < 1e-10
            assert found.computed == found.counted
        ones = random_kept(network, Structure((1,) * len(network.groups)), np.random.default_rng(0))
        assert verify(model, network, kept=ones).holds

    @pytest.mark.parametrize("name", FAMILIES)
    def test_a_cut_network_trains_and_is_pickled(self, name):
        model, shape, _ = family(name)
        model = adapt(model)
        network = trace(model, torch.zeros(1, *shape))
        rng = np.random.default_rng(0)
        small = cut(model, network, random_kept(network, random_structure(network, rng), rng))
        x = torch.randn(2, *shape)
        with torch.no_grad():
            assert torch.equal(pickle.loads(pickle.dumps(small))(x), small(x))
        small.train()(x).square().sum().backward()
        assert all(parameter.grad is not None for parameter in small.parameters())

    def test_the_keys_of_swin_v2_have_no_bias_whatever_its_weights_say(self):
        model, shape, _ = family("swin v2")
        x = torch.randn(2, *shape)
        adapted = adapt(model)
        bias = adapted.get_parameter("features.1.0.attn.qkv.bias")
        with torch.no_grad():
            before = adapted(x)
            bias[len(bias) // 3 : 2 * len(bias) // 3] += 1.0
            assert torch.equal(adapted(x), before)
            bias[:3] += 1.0
            assert not torch.equal(adapted(x), before)

    def test_a_head_takes_its_biases_with_it(self):
        for name, parts in (("swin", ["relative_position_bias_table"]), ("swin v2", ["logit_scale", "cpb_mlp.2"])):
            model, shape, heads = family(name)
            network = trace(adapt(model), torch.zeros(1, *shape))
            first = next(iter(heads))
            index = network.index[first]
            moved = {*network.layers_of(index, Role.PRODUCES), *network.layers_of(index, Role.FOLLOWS)}
            attention = first.removesuffix(".qkv")
            assert {f"{attention}.{part}" for part in (*parts, "qkv")} == moved
            assert network.layers_of(index, Role.CONSUMES) == (f"{attention}.proj",)


class TestTorchsAttention:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"batch_first": True},
            {"bias": False},
            {"kdim": 5, "vdim": 7},
            {"kdim": 5, "vdim": 7, "batch_first": True, "bias": False},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("mask", [None, "causal", "numbers", "heads", "padding", "unbatched"])
    def test_the_stand_in_agrees_on_other_tokens_and_masks(self, options, mask):
        torch.manual_seed(0)
        dense = shuffled(nn.MultiheadAttention(WIDTH, HEADS, **options)).eval()
        adapted = adapt(dense)
        assert isinstance(adapted, HeadAttention)
        axis = 0 if options.get("batch_first") else 1
        widths = (WIDTH, options.get("kdim", WIDTH), options.get("vdim", WIDTH))
        q, k, v = (torch.randn(count, width) for count, width in zip((4, 6, 6), widths, strict=True))
        q, k, v = (item if mask == "unbatched" else torch.stack([item, item + 1], axis) for item in (q, k, v))
        arguments: dict[str, Any] = {
            "causal": {"attn_mask": torch.ones(4, 6, dtype=torch.bool).triu(2), "is_causal": False},
            "numbers": {"attn_mask": torch.randn(4, 6)},
            "heads": {"attn_mask": torch.randn(2 * HEADS, 4, 6)},
            "padding": {"key_padding_mask": torch.tensor([[False] * 6, [False] * 4 + [True] * 2])},
        }.get(mask or "", {})
        for asked in ({}, {"need_weights": False}, {"average_attn_weights": False}):
            found, wanted = adapted(q, k, v, **arguments, **asked), dense(q, k, v, **arguments, **asked)
            torch.testing.assert_close(found[0], wanted[0])
            torch.testing.assert_close(found[1], wanted[1])

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_self_attention_is_cut_with_tokens_in_either_order(self, batch_first):
        torch.manual_seed(0)
        model = adapt(shuffled(Transformer(Torchs(batch_first=batch_first))).eval())
        network = trace(model, torch.zeros(1, *SHAPE))
        assert {group.name: group.width for group in network.groups} == {"attention.attention.in_proj": HEADS, "up": 20}
        assert verify(model, network).holds
        group = next(item for item in network.channels if len(item.group) == 3 * WIDTH)
        assert [(group.channel == head).sum() for head in range(HEADS)] == [3 * HEAD_DIM] * HEADS

    def test_attention_weights_that_are_thrown_away_freeze_nothing_and_others_do(self):
        model = adapt(Transformer(Torchs(batch_first=True, weighed=True)).eval())
        network = trace(model, torch.zeros(1, *SHAPE))
        assert [group.name for group in network.groups] == ["up"]
        assert network.frozen["attention.attention.in_proj"] == "mean over channels"

    @pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
    def test_tokens_of_its_own_freeze_the_heads(self, options):
        torch.manual_seed(0)
        dense = Transformer(Torchs(batch_first=True, **options)).eval()
        assert adapt(dense) is dense
        network = verified(dense, trace(dense, torch.zeros(1, *SHAPE)))
        assert [group.name for group in network.groups] == ["up"]
        assert network.frozen["attention.attention.in_proj"]
        assert verify(dense, network).holds

    def test_queries_from_elsewhere_are_frozen_and_the_rest_is_proved(self):
        class Pooling(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.query, self.cross = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.MultiheadAttention(WIDTH, HEADS)

            def forward(self, x: Tensor) -> Tensor:
                x = x.transpose(0, 1)
                return self.cross(self.query.expand(-1, x.shape[1], -1), x, x)[0].transpose(0, 1)

        model = adapt(Transformer(Pooling()).eval())
        network = verified(model, trace(model, torch.zeros(1, *SHAPE)))
        assert [group.name for group in network.groups] == ["up"]
        assert verify(model, network).holds

    def test_a_transformer_layer_of_torch_does_not_bypass_the_stand_in(self):
        model = toy("transformer layer")
        network = trace(model, torch.zeros(1, *SHAPE))
        assert network.index.keys() == {"attention.layers.0.self_attn.in_proj", "attention.layers.0.linear1", "up"}
        small = cut(model, network, random_kept(network, Structure((1, 3, 4)), np.random.default_rng(0)))
        x = images(2)
        slow = torch.backends.mha.get_fastpath_enabled()
        with torch.no_grad():
            fast = small(x)
            torch.backends.mha.set_fastpath_enabled(False)
            torch.testing.assert_close(small(x), fast)
        torch.backends.mha.set_fastpath_enabled(slow)


class TestUsersAttention:
    def test_what_surrounds_an_attention_that_torch_would_run_as_one_operation_is_cut(self):
        class Own(nn.MultiheadAttention):
            """No stand-in is made of a subclass."""

        class Attending(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attention = Own(WIDTH, HEADS, batch_first=True)

            def forward(self, x: Tensor) -> Tensor:
                return self.attention(x, x, x)[0]

        fast = torch.backends.mha.get_fastpath_enabled()
        model = adapt(Transformer(Attending()).eval())
        network = verified(model, trace(model, torch.zeros(1, *SHAPE)))
        assert [group.name for group in network.groups] == ["up"]
        assert verify(model, network).holds
        assert torch.backends.mha.get_fastpath_enabled() == fast

    @pytest.mark.parametrize(("name", "group", "heads"), [
        ("fused heads", "attention.qkv", HEADS),
        ("heads by hand", "attention.query", HEADS),
        ("counted heads", "attention.query", HEADS),
        ("shared keys", "attention.q", HEADS // 2),
    ])  # fmt: skip
    def test_heads_are_groups_however_attention_is_written(self, name, group, heads):
        model = toy(name)
        network = trace(model, torch.zeros(1, *SHAPE))
        assert {item.name: item.width for item in network.groups} == {group: heads, "up": 20}
        assert verify(model, network).holds

    def test_numbers_of_heads_that_a_module_keeps_follow_the_cut(self):
        model = toy("counted heads")
        network = trace(model, torch.zeros(1, *SHAPE))
        small = cut(model, network, random_kept(network, Structure((3, 20)), np.random.default_rng(0)))
        attention = small.get_submodule("attention")
        assert (attention.num_heads, attention.all_head_size) == (3, 3 * HEAD_DIM)
        assert model.get_submodule("attention").num_heads == HEADS

    def test_a_width_written_into_a_view_freezes_the_heads_alone(self):
        model = toy("written heads")
        network = verified(model, trace(model, torch.zeros(1, *SHAPE)))
        assert [group.name for group in network.groups] == ["up"]
        assert "forward fails once it is cut" in network.frozen["attention.qkv"]

    def test_without_heads_the_channels_of_queries_and_keys_are_cut_together_and_those_of_values_alone(self):
        model = toy("one head")
        network = trace(model, torch.zeros(1, *SHAPE))
        assert [group.name for group in network.groups] == ["attention.query", "attention.value", "up"]
        assert network.layers_of(0, Role.PRODUCES) == ("attention.query", "attention.key")
        for name in ("attention.query", "attention.value"):
            assert verify(model, restricted(network, {name})).holds

    def test_a_proof_cuts_every_group(self):
        # With 4 heads, a random width is the dense one every fourth time, and proves nothing.
        model = toy("written heads")
        network = trace(model, torch.zeros(1, *SHAPE))
        for seed in range(8):
            with pytest.raises(RuntimeError, match="invalid for input of size"):
                verify(model, network, seed=seed)


class TestNorms:
    def body(self, norm: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3)
        return shuffled(nn.Sequential(nn.Conv2d(3, 12, 3), norm, nn.GELU(), nn.Conv2d(12, 7, 3), *head)).eval()

    @pytest.mark.parametrize(("norm", "width"), [
        (nn.GroupNorm(4, 12), 4),
        (nn.GroupNorm(12, 12), 12),
        (nn.InstanceNorm2d(12), 12),
        (nn.InstanceNorm2d(12, affine=True), 12),
        (nn.InstanceNorm2d(12, affine=True, track_running_stats=True), 12),
    ], ids=repr)  # fmt: skip
    @pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match num_features")
    def test_what_is_normalised_together_is_cut_together(self, norm, width):
        model = self.body(norm)
        network = trace(model, torch.zeros(1, *SHAPE))
        assert {group.name: group.width for group in network.groups} == {"0": width, "3": 7}
        assert verified(model, network).groups == network.groups
        small = cut(model, network, random_kept(network, Structure((2, 7)), np.random.default_rng(0)))
        assert small[1].weight is None or len(small[1].weight) == 2 * 12 // width

    @pytest.mark.parametrize(("norm", "reason"), [
        (nn.GroupNorm(1, 12), "group norm over all channels: its statistics change with every cut"),
        (nn.GroupNorm(4, 12, affine=False), "group norm without weights"),
        (nn.LayerNorm([12, 10, 10]), "layer norm over channels"),
    ], ids=repr)  # fmt: skip
    def test_a_norm_over_all_channels_freezes_them(self, norm, reason):
        network = trace(self.body(norm), torch.zeros(1, *SHAPE))
        assert [group.name for group in network.groups] == ["3"]
        assert reason in network.frozen["0"]


class TestRepair:
    """What follows a cut: the layers that read what is left of heads and of an MLP are solved by least squares."""

    @pytest.mark.parametrize("name", ["vit", "swin", "maxvit"])
    def test_closed_forms_bring_a_cut_transformer_back_towards_the_dense_one(self, name):
        model, shape, heads = family(name)
        model = adapt(model)
        x = torch.randn(24, *shape, generator=torch.Generator().manual_seed(2))
        network = trace(model, torch.zeros(1, *shape))
        calibration = calibrate(model, network, x, seed=0, batch=8)
        reads = [call for call in network.calls if call.input is not None and call.call in calibration.targets]
        consumed = {group for call in reads for group in network.channels[call.input].members}
        assert {network.index[group] for group in heads} <= consumed
        structure = Structure(tuple(max(1, group.width // 2) for group in network.groups))
        kept = keep_best(rank_groups(model, network, calibration), structure.widths)
        with torch.no_grad():
            wanted = model(x)
            errors = {
                merge: float((cut_and_merge(model, network, kept, merge=merge, calibration=calibration, images=x)(x)
                              - wanted).square().mean())
                for merge in (Merge.SLICE, Merge.LEAST_SQUARES, Merge.SEQUENTIAL)
            }  # fmt: skip
        assert errors[Merge.SEQUENTIAL] < errors[Merge.LEAST_SQUARES] < errors[Merge.SLICE]
        assert errors[Merge.SEQUENTIAL] < 0.5 * errors[Merge.SLICE]

    def test_heads_that_say_nothing_are_dropped_without_loss(self):
        model = toy("torch's attention")
        network = trace(model, torch.zeros(1, *SHAPE))
        attention = model.get_submodule("attention.attention")
        with torch.no_grad():
            attention.out_proj.weight[:, HEAD_DIM : 2 * HEAD_DIM] = 0.0
        x = images(8)
        rankings = rank_groups(model, network, calibrate(model, network, x, seed=0))
        kept = keep_best(rankings, (HEADS - 1, 20))
        assert kept.indices[0].tolist() == [0, 2, 3]
        with torch.no_grad():
            torch.testing.assert_close(cut(model, network, kept)(x), model(x))
