from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from autoprune.models.modules.compiled import inside, uncompiled


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Linear(144, 3)).eval()


def in_place(model: nn.Module) -> nn.Module:
    model.compile()
    return model


def in_part(model: nn.Module) -> nn.Module:
    model[1] = torch.compile(model[1])
    return model


@pytest.mark.parametrize("compiled", [torch.compile, in_place, in_part, lambda model: torch.compile(in_part(model))])
def test_what_was_compiled_is_unwrapped_and_left_as_it_was(compiled: Callable[[nn.Module], nn.Module]) -> None:
    plain = network()
    given = compiled(copy.deepcopy(plain))
    names = [name for name, _ in given.named_modules()]
    found = uncompiled(given)
    assert type(found) is nn.Sequential
    assert found is not given
    assert list(found.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in given.named_modules()] == names
    assert all(module._compiled_call_impl is None for module in found.modules())
    images = torch.rand(2, 1, 8, 8)
    # Nothing is compiled: that would take seconds, and a compiler.
    torch.testing.assert_close(found(images), plain(images))


def test_a_network_that_was_not_compiled_is_itself() -> None:
    model = network()
    assert uncompiled(model) is model
    assert inside(model) is model


def test_functions_of_the_network_inside_hold_its_own_layers() -> None:
    model = network()
    conv = model[0]
    model.first = lambda x: conv(x)
    found = uncompiled(torch.compile(model))
    with torch.no_grad():
        found[0].weight.zero_()
        found[0].bias.fill_(7)
    assert bool((found.first(torch.rand(2, 1, 8, 8)) == 7).all())
    assert not bool((conv.weight == 0).any())
