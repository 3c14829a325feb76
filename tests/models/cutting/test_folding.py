from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.structure import Structure
from autoprune.models.cutting.folding import Form, PassingNorm2d, fastest_form, fold_norms, output_first
from autoprune.models.cutting.surgery import cut, random_kept
from autoprune.models.modules.replicas import replicate
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import outputs, verified
from tests.models.toy_networks import NETWORKS, SHAPE, fitted, images, toy


def folded(model: nn.Module) -> nn.Module:
    return fold_norms(replicate(model, {}, {}), trace(model, torch.zeros(1, *SHAPE, dtype=torch.float64)))


def test_no_norm_is_left_to_run_in_a_residual_network_and_the_dense_one_keeps_its_own():
    model = toy("residual with projections")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = {type(module) for module in folded(model.double()).modules()}
    assert PassingNorm2d in kinds
    assert nn.BatchNorm2d not in kinds
    assert all(torch.equal(value, before[name].to(value.dtype)) for name, value in model.state_dict().items())


class _ReadsPastTheLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Linear(6, 5)
        nn.init.constant_(self.norm.weight, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.conv2d(x, self.conv.weight)
        y = nn.functional.batch_norm(
            y, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias, False
        )
        return self.head(y.relu().mean((2, 3)))


class _Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Linear(600, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).view(len(x), -1))


class _ReadsAgain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Linear(6, 5)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.head((self.relu(y) - y).mean((2, 3)))


class _Deep(nn.Module):
    """A 3d convolution, whose weight cannot be laid out with channels last as a 2d one's can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x.unsqueeze(2))).relu().mean((2, 3, 4)))


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (_ReadsPastTheLayers, Form(folded=False, in_place=True, channels_last=True)),
        (_ReadsAgain, Form(folded=True, in_place=False, channels_last=True)),
        (_Views, Form(folded=True, in_place=True, channels_last=False)),
        (_Deep, Form(folded=True, in_place=True, channels_last=False)),
    ],
)
def test_a_form_that_changes_what_a_network_does_is_not_taken(kind, form):
    torch.manual_seed(0)
    model = fitted(kind(), images(8)).eval()
    assert fastest_form(model, trace(model, images(1)), images(2)) == form


@pytest.mark.parametrize("name", NETWORKS)
def test_in_its_fastest_form_a_cut_network_puts_out_the_same(name):
    x = images(6, dtype=torch.float64)
    model = fitted(toy(name).double(), x)
    network = verified(model, trace(model, x[:1]))
    form = fastest_form(model, network, x[:2])
    structure = Structure(tuple(max(1, group.width // 2) for group in network.groups))
    small = cut(model, network, random_kept(network, structure, np.random.default_rng(0))).eval()
    with torch.no_grad():
        wanted = outputs(small, x)
        found = outputs(form.put_on(small, network), x.clone(memory_format=form.layout))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_transposed_convolution_has_one_filter_an_output(groups):
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 12, 3, groups=groups), nn.Conv2d(12, 2, 1))
    call = trace(model, torch.zeros(1, 3, 5, 5)).calls[1]
    weight = model[1].weight.detach()
    filters = output_first(weight, call)
    assert filters.shape == (12, 6 // groups, 9)
    x = torch.rand(1, 6, 5, 5)
    for channel in range(12):
        group, place = divmod(channel, 12 // groups)
        block = slice(group * 6 // groups, (group + 1) * 6 // groups)
        torch.testing.assert_close(filters[channel], weight[block, place].flatten(1))
        alone = nn.functional.conv_transpose2d(x[:, block], filters[channel].reshape(-1, 1, 3, 3))
        torch.testing.assert_close(alone[0, 0] + model[1].bias[channel], model[1](x)[0, channel])
