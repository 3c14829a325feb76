from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.models.folding import PassingNorm2d, fold_norms, folds_truly
from autoprune.models.surgery import replicate
from autoprune.models.tracing import trace
from autoprune.models.verify import outputs
from tests.models.toy_networks import NETWORKS, SHAPE, fitted, images, toy


def folded(model: nn.Module) -> nn.Module:
    return fold_norms(replicate(model, {}, {}), trace(model, torch.zeros(1, *SHAPE, dtype=torch.float64)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_puts_out_the_same(name):
    x = images(6, dtype=torch.float64)
    model = fitted(toy(name).double(), x)
    with torch.no_grad():
        for found, wanted in zip(outputs(folded(model), x), outputs(model, x), strict=True):
            torch.testing.assert_close(found, wanted)


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


@pytest.mark.parametrize(
    ("kind", "layout", "holds"),
    [
        (_ReadsPastTheLayers, torch.contiguous_format, False),
        (_Views, torch.contiguous_format, True),
        (_Views, torch.channels_last, False),
    ],
)
def test_networks_that_cannot_be_folded_or_laid_out_otherwise_are_told(kind, layout, holds):
    torch.manual_seed(0)
    model = fitted(kind(), images(8)).eval()
    assert folds_truly(model, trace(model, images(1)), images(2), layout=layout) is holds
