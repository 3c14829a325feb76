"""Networks as users hold them: not made yet, wrapped for several GPUs, or called by whatever arguments."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import threading
import weakref
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.models.cutting.surgery import Kept, cut, keep_all
from autoprune.models.modules.portable import (
    OneArgument,
    copied,
    initialised,
    on_any_device,
    shared_by,
    with_one_argument,
)
from autoprune.models.modules.replicas import replicate
from autoprune.models.storage.saved import load
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import verified
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


def attribute_of(model: nn.Module, x: Tensor) -> Tensor:
    return model.function.__wrapped__(x)


class Slotted:
    """Has no dictionary of attributes."""

    __slots__ = ("run",)

    def __init__(self, run: object) -> None:
        self.run = run


class Holding(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        conv, scale, reference = self.conv, 2.0, weakref.ref(self.conv)
        self.function = {
            "itself": lambda x: self.conv(x),
            "a layer": lambda x: conv(x),
            "a partial": functools.partial(nn.Module.__call__, self.conv),
            "a number": lambda x: scale * x,
            "a method": self.conv.forward,
            "nothing": torch.relu,
            "a default": lambda x, layer=conv: layer(x),
            "another function": lambda x: (lambda y: conv(y))(x),
            "a list": [lambda x: conv(x), torch.zeros(3)],
            "a mapping": {"first": lambda x: conv(x)},
            "a wrapped function": functools.wraps(conv.forward)(lambda x: self.function.__wrapped__(x)),
            "an object": SimpleNamespace(run=lambda x: conv(x)),
            "an object with slots": Slotted(lambda x: conv(x)),
            "a set in a lambda": lambda x, layers=frozenset({conv}): next(iter(layers))(x),
            "a weak reference": SimpleNamespace(run=lambda x: reference()(x)),
            "a partial's attribute": functools.update_wrapper(functools.partial(attribute_of, self), conv.forward),
        }[kind]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        function = self.function
        function = function[0] if isinstance(function, list) else getattr(function, "run", function)
        return (function["first"] if isinstance(function, dict) else function)(x)


HELD = [
    *("itself", "a layer", "a partial", "a method", "a list", "a default", "another function", "a mapping"),
    *("a wrapped function", "a partial's attribute", "an object", "an object with slots", "a set in a lambda"),
    "a weak reference",
]


@pytest.mark.parametrize("kind", HELD)
def test_a_function_that_holds_layers_holds_those_of_a_copy(kind) -> None:
    model = Holding(kind)
    twin = copied(model)
    with torch.no_grad():
        twin.conv.weight.zero_()
        twin.conv.bias.fill_(7)
    assert bool((twin(images(1)) == 7).all())
    assert not bool((model(images(1)) == 7).any())
    assert shared_by(model, twin) is None


@pytest.mark.parametrize("kind", HELD)
def test_a_function_that_holds_layers_is_cut_with_them(kind) -> None:
    model = nn.Sequential(Holding(kind), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    network = verified(model, trace(model, images(1)))
    assert [group.name for group in network.groups] == ["0.conv"]
    before = copy.deepcopy(model.state_dict())
    small = cut(model, network, Kept((np.array([1, 3]),)))
    small(images(2)).sum().backward()
    assert small[0].conv.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Wide(nn.Module):
    """A network nearly all of whose weights lie in a layer that a function holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 128, 3), nn.Conv2d(128, 128, 3), nn.Linear(128, 5)
        second = self.second

        def block(x: Tensor, *, slope: float = 0.1) -> Tensor:
            """Runs the second layer."""
            return nn.functional.leaky_relu(second(x), slope)

        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.first(x)).mean((2, 3)))


def narrowed(model: nn.Module) -> nn.Module:
    network = trace(model, images(1))
    return cut(model, network, Kept(tuple(np.arange(4) for _ in network.groups)))


def test_a_cut_network_with_functions_is_no_larger_than_its_weights() -> None:
    model = Wide().eval()
    small = narrowed(model)
    assert len(cloudpickle.dumps(small)) < 20_000 < 500_000 < len(cloudpickle.dumps(model))
    assert torch.equal(pickle.loads(cloudpickle.dumps(small))(images(2)), small(images(2)))
    once, thrice = copied(model), copied(copied(copied(model)))
    assert len(cloudpickle.dumps(thrice)) == pytest.approx(len(cloudpickle.dumps(once)), rel=0.01)
    names = ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "__kwdefaults__")
    assert [getattr(small.block, name) for name in names] == [getattr(model.block, name) for name in names]


def test_copies_with_functions_do_not_keep_the_network_that_they_are_copies_of() -> None:
    model = Wide().eval()
    layer = weakref.ref(model.second)
    left = [narrowed(model), copied(model)]
    del model
    gc.collect()
    assert layer() is None
    assert all(made(images(1)).shape == (1, 5) for made in left)


class Sharing(nn.Module):
    """One function writes what another reads; a third writes no layer's output, but the same variable."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        first, kept = self.first, None

        def save(x: Tensor) -> Tensor:
            nonlocal kept
            kept = first(x)
            return kept

        def double() -> None:
            nonlocal kept
            kept = 2 * kept

        self.save, self.changed, self.load = save, {"double": double}, lambda: kept

    def forward(self, x: Tensor) -> Tensor:
        found = self.second(self.save(x).relu())
        self.changed["double"]()
        return (found + self.load()).mean((2, 3))


def uncut(model: nn.Module) -> nn.Module:
    network = trace(model, images(1))
    return cut(model, network, keep_all(network))


@pytest.mark.parametrize("make", [copied, uncut])
def test_functions_that_share_a_variable_share_it_in_a_copy_too(make) -> None:
    model = Sharing().eval()
    twin = make(model)
    expected = model(images(2))
    twin(images(3))
    assert torch.equal(model.load(), 2 * model.first(images(2)))
    assert torch.equal(twin(images(2)), expected)


def test_functions_in_a_list_that_they_read_read_that_of_the_copy() -> None:
    model = Holding("a layer").eval()
    conv, steps = model.conv, []
    steps.extend((lambda x: conv(x), lambda x: steps[0](x)))
    model.steps = steps
    twin = uncut(model)
    assert twin.steps[1].__closure__[0].cell_contents is twin.steps
    assert twin.steps[0].__closure__[0].cell_contents is twin.conv


class Unique:
    """An object that is its own copy."""

    def __init__(self, conv: nn.Module) -> None:
        self.run = lambda x: conv(x)

    def __deepcopy__(self, memo: object) -> Unique:
        return self


def test_what_holds_layers_and_is_no_copy_is_named() -> None:
    model = Holding("nothing")
    model.objects = [Unique(model.conv)]
    assert shared_by(model, copied(model)) == "objects"
    assert shared_by(nn.Sequential(model), copied(nn.Sequential(model))) == "0.objects"


def test_what_cannot_be_copied_is_shared_alone_or_refused() -> None:
    model = Holding("a layer")
    model.parts = [threading.Lock(), model.conv, model(images(1))]
    small = replicate(model, {}, {})
    assert small.parts[0] is model.parts[0]
    assert small.parts[1] is small.conv
    assert shared_by(model, small) is None
    with pytest.raises(TypeError, match="cannot pickle"):
        copied(model)


def test_a_module_of_torchscript_is_cut_like_any_other() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).eval())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), scripted, nn.Conv2d(6, 2, 1)).eval()
    network = verified(model, trace(model, images(1)))
    assert [(group.name, group.width) for group in network.groups] == [("0", 4), ("1.0", 6)]
    before = copy.deepcopy(model.state_dict())
    small = cut(model, network, Kept((np.array([1, 3]), np.arange(2))))
    small(images(2)).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["a number", "nothing"])
def test_functions_that_copies_can_share_are_shared(kind) -> None:
    model = Holding(kind)
    assert copied(model).function is model.function


class Seen:
    """Counts how often it is asked what it is made of."""

    times = 0

    def __reduce_ex__(self, protocol):
        Seen.times += 1
        return Seen, ()


def test_what_many_functions_hold_is_looked_at_once_and_copied_once():
    model, table = nn.Sequential(nn.Conv2d(3, 4, 1)), [Seen()]

    def reading(position: int):
        return lambda x: (model[0](x), table, position)

    model.readers = [reading(position) for position in range(50)]
    Seen.times = 0
    copy = copied(model)
    assert Seen.times == 2
    assert len({id(read(torch.zeros(1, 3, 2, 2))[1]) for read in copy.readers}) == 1
