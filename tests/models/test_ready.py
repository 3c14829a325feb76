"""Networks as users hold them: not made yet, wrapped for several GPUs, or called by whatever arguments."""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.models.ready import OneArgument, copied, holds_itself, initialised, on_any_device, with_one_argument
from autoprune.models.saved import load
from tests.models.saved_cut import saved_cut
from tests.models.toy_networks import SHAPE, images, toy


class Lazy(nn.Module):
    """A network that finds its widths out by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.LazyConv2d(6, 3, padding=1), nn.LazyBatchNorm2d()
        self.conv, self.head = nn.LazyConv2d(8, 3, padding=1), nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.norm(self.stem(x)).relu()).relu().mean((2, 3)))


class TestLazyLayers:
    def test_they_are_made_as_the_images_ask_and_nothing_else_changes(self) -> None:
        model = Lazy().train()
        model.norm.eval()
        state = torch.get_rng_state()
        assert initialised(model, SHAPE) is model
        assert torch.equal(torch.get_rng_state(), state)
        assert [module.training for module in (model, model.stem, model.norm)] == [True, True, False]
        assert model.stem.weight.shape == (6, SHAPE[0], 3, 3)
        assert model(images(2)).shape == (2, 5)

    def test_a_saved_network_is_loaded_into_one_that_has_not_been_made(self, tmp_path) -> None:
        torch.manual_seed(0)
        dense = initialised(Lazy(), SHAPE).eval()
        small, _ = saved_cut(tmp_path, None, model=dense)
        assert torch.equal(load(tmp_path, model=Lazy())(images(3)), small(images(3)))

    def test_where_the_images_do_not_fit_it_is_one_line(self) -> None:
        with pytest.raises(
            ModelError, match=r"^The lazy layers of Lazy cannot be made: its forward fails on 3x12 images"
        ):
            initialised(Lazy(), (3, 12))

    def test_networks_without_any_are_not_run(self) -> None:
        model = toy("depthwise")
        model.forward = None
        assert initialised(model, SHAPE) is model


def test_a_network_in_data_parallel_computes_where_its_weights_are() -> None:
    plain = toy("depthwise")
    model = nn.DataParallel(plain)
    model.device_ids, model.src_device_obj = [0], torch.device("cuda:0")  # as torch sets them where there is a GPU
    with pytest.raises(RuntimeError):
        model(images(2))
    assert torch.equal(on_any_device(model)(images(2)), plain(images(2)))


class Remembering(nn.Module):
    """A network that keeps values of its last forward pass, here and there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.maps: list[object] = []
        self.elsewhere = SimpleNamespace(model=self, last=None)

    def forward(self, x: Tensor) -> Tensor:
        self.elsewhere.last = self.conv(x)
        self.maps = [{"map": self.elsewhere.last * 2}, self]
        return self.elsewhere.last.mean((2, 3))


class TestCopies:
    @pytest.mark.parametrize(
        "make",
        [
            Remembering,
            lambda: nn.Sequential(Remembering(), nn.Linear(4, 2)),
            lambda: torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 3)),
            lambda: torch.nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)),
        ],
    )
    def test_values_of_a_forward_pass_are_no_hindrance(self, make) -> None:
        model = make().eval()
        model(images(2))
        with pytest.raises(RuntimeError, match="deepcopy"):
            copy.deepcopy(model)
        twin = copied(model)
        assert torch.equal(twin(images(2)), model(images(2)))
        assert not {id(module) for module in twin.modules()} & {id(module) for module in model.modules()}

    def test_what_is_tied_stays_tied_and_the_network_keeps_its_own_values(self) -> None:
        model = Remembering()
        model.again = model.conv
        model(images(2))
        last = model.elsewhere.last
        twin = copied(model)
        assert twin.again is twin.conv
        assert twin.elsewhere.model is twin
        assert model.elsewhere.last is last
        assert last.requires_grad


class TestOneArgument:
    def test_a_named_first_argument_is_left_alone(self) -> None:
        model = toy("depthwise")
        assert with_one_argument(model) is model

    @pytest.mark.parametrize("make", [lambda: nn.DataParallel(toy("depthwise"))])
    def test_others_are_called_with_images(self, make) -> None:
        model = make()
        wrapped = with_one_argument(model)
        assert isinstance(wrapped, OneArgument)
        assert torch.equal(wrapped(images(2)), model(images(2)))


class Holding(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        conv, scale = self.conv, 2.0
        self.function = {
            "itself": lambda x: self.conv(x),
            "a layer": lambda x: conv(x),
            "a partial": functools.partial(nn.Module.__call__, self.conv),
            "a number": lambda x: scale * x,
            "a method": self.conv.forward,
            "nothing": torch.relu,
        }[kind]


@pytest.mark.parametrize("kind", ["itself", "a layer", "a partial"])
def test_a_function_that_holds_layers_is_named(kind) -> None:
    assert holds_itself(Holding(kind)) == "function"
    assert holds_itself(nn.Sequential(Holding(kind))) == "0.function"


@pytest.mark.parametrize("kind", ["a number", "a method", "nothing"])
def test_functions_that_copies_can_share_are_none(kind) -> None:
    assert holds_itself(Holding(kind)) is None
