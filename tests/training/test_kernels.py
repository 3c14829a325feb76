"""What a training's steps are computed in: half precision where the device has it and the network bears it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import devices
from autoprune.evaluation.subject import FloatImages
from autoprune.training.checkpoints import Checkpointing
from autoprune.training.kernels import training_precision
from autoprune.training.recipe import Recipe
from autoprune.training.trainer import train

RECIPE = Recipe(epochs=3, learning_rate=0.05, batch_size=20)


class Network(nn.Module):
    """A convolution, a batch norm, a ReLU and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.between(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Demanding(Network):
    """Does what there are kernels for in float32 alone."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not torch.float32:
            raise NotImplementedError("'demanding' is not implemented for 'BFloat16'")
        return x


class Leaving(Network):
    """Leaves torch, which knows bfloat16, for NumPy, which does not."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.detach().numpy().max() >= 0)


class Asserting(Network):
    """Insists on float32 while it is trained."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training or x.dtype is torch.float32
        return x


class Unlearned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        if gradient.dtype is not torch.float32:
            raise RuntimeError("'unlearned' is not implemented for 'BFloat16'")
        return gradient


class DemandingGradients(Network):
    """Has gradients in float32 alone."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return Unlearned.apply(x)


def precision_of(model: nn.Module, *shape: int) -> torch.dtype | None:
    """Returns what a network would be trained in, by the mean of its outputs."""
    images = torch.zeros(shape)

    def loss(network: nn.Module, precision: AbstractContextManager[Any]) -> torch.Tensor:
        with precision:
            return network(images).float().mean()

    return training_precision(loss, model, images)


def made(kind: type[Network]) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind()


def images(size: int = 32) -> FloatImages:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    return FloatImages(
        (rng.standard_normal((40, 3, size, size)) + labels[:, None, None, None]).astype(np.float32), labels
    )


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that multiplies bfloat16; torch does so on any, if slowly."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": True})


@pytest.mark.parametrize("names", [(), ("avx2", "avx512_f")])
def test_a_cpu_without_instructions_for_bfloat16_computes_in_float32(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))
    assert devices.half_precision("cpu") is None
    assert precision_of(made(Network), 2, 3, 32, 32) is None


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_with_such_instructions_computes_in_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True})
    assert devices.half_precision("cpu") is torch.bfloat16
    assert precision_of(made(Network), 2, 3, 32, 32) is torch.bfloat16


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("kind", [Demanding, DemandingGradients, Leaving, Asserting])
def test_what_has_no_kernels_for_it_is_trained_in_float32(kind: type[Network]) -> None:
    model = made(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert precision_of(model, 2, 3, 32, 32) is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    assert train(model, images(), range(40), RECIPE, seed=0).loss < 0.7


@pytest.mark.usefixtures("able")
def test_small_images_are_not_worth_it() -> None:
    assert precision_of(made(Network), 2, 3, 8, 8) is None


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(
    ("size", "mixed", "wanted"), [(32, True, "bfloat16"), (32, False, "float32"), (8, True, "float32")]
)
def test_the_convolutions_of_a_training_compute_in_it_and_weights_stay_float32(
    size: int, mixed: bool, wanted: str
) -> None:
    model, seen = made(Network), []
    model.conv.register_forward_hook(lambda module, inputs, output: seen.append(str(output.dtype)))
    recipe = Recipe(epochs=3, learning_rate=0.05, batch_size=20, mixed_precision=mixed)
    report = train(model, images(size), range(40), recipe, seed=0)
    assert set(seen[-6:]) == {f"torch.{wanted}"}
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
    assert report.loss < 0.6


@pytest.mark.usefixtures("able")
def test_both_learn_alike_and_each_always_the_same() -> None:
    def trained(mixed: bool) -> dict[str, torch.Tensor]:
        model = made(Network)
        train(
            model,
            images(),
            range(40),
            Recipe(epochs=3, learning_rate=0.05, batch_size=20, mixed_precision=mixed),
            seed=0,
        )
        return model.state_dict()

    half, full = trained(True), trained(False)
    again = trained(True)
    assert all(torch.equal(half[name], again[name]) for name in half)
    assert not torch.equal(half["conv.weight"], full["conv.weight"])
    for name, value in full.items():
        torch.testing.assert_close(half[name], value, rtol=0.05, atol=0.02)


@pytest.mark.usefixtures("able")
def test_a_trial_draws_no_random_number() -> None:
    class Dropping(Network):
        def between(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(x, 0.5, training=True)

    model = made(Dropping).train()
    state = torch.get_rng_state()
    assert precision_of(model, 2, 3, 32, 32) is torch.bfloat16
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


@pytest.mark.usefixtures("able")
def test_memory_that_runs_out_is_not_taken_for_a_missing_kernel() -> None:
    def full(network: nn.Module, precision: AbstractContextManager[Any]) -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        training_precision(full, made(Network), torch.zeros(2, 3, 32, 32))


@pytest.mark.usefixtures("able")
def test_what_was_begun_in_float32_goes_on_in_it(tmp_path: Path) -> None:
    def trained(name: str, mixed: bool, stop: int | None = None) -> tuple[dict[str, torch.Tensor], str]:
        def stopping(done: int, _total: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        model = made(Network)
        recipe = Recipe(epochs=3, learning_rate=0.05, batch_size=20)
        # A CPU without the instructions is one for which nothing is found.
        with pytest.MonkeyPatch.context() as patch:
            if not mixed:
                patch.setattr(torch.cpu, "get_capabilities", dict)
            checkpoint = Checkpointing(tmp_path / name, every_steps=1)
            report = train(model, images(), range(40), recipe, seed=0, checkpoint=checkpoint, on_step=stopping)
        return model.state_dict(), report.precision

    whole, said = trained("whole", mixed=False)
    assert said == "float32"
    with pytest.raises(KeyboardInterrupt):
        trained("stopped", mixed=False, stop=3)
    resumed, said = trained("stopped", mixed=True)
    assert said == "float32"
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert trained("other", mixed=True)[1] == "bfloat16"
