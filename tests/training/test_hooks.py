from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.data import ArrayImages, Augmentation, load_data
from autoprune.errors import DivergenceError
from autoprune.models.zoo.families.cifar_resnet import CifarResNet
from autoprune.models.zoo.weights import state_fingerprint
from autoprune.training import Recipe, train
from autoprune.training.hooks import Hook, TrainingState

#: 96 images in batches of 32: three steps an epoch.
IMAGES = 96
TWO_EPOCHS = Recipe(epochs=2, learning_rate=0.05, batch_size=32)
ONE_STEP = Recipe(epochs=0.001, learning_rate=0.1, batch_size=32, momentum=0.0, weight_decay=0.0)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return CifarResNet(blocks=1, option="b", widths=(4, 8, 8), in_channels=1).eval()


@pytest.fixture(scope="module")
def digits() -> ArrayImages:
    images = load_data("digits").train
    assert isinstance(images, ArrayImages)
    return images


def fit(model: nn.Module, images: ArrayImages, *hooks: Hook, recipe: Recipe = TWO_EPOCHS, **options: Any) -> nn.Module:
    train(model, images, range(IMAGES), recipe, seed=3, hooks=hooks, **options)
    return model


class Telling(Hook):
    """Tells what it is called with."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told
        self.state: TrainingState | None = None

    def begin(self, state: TrainingState) -> None:
        self.state = state
        self.told.append(f"{self.name} begins{' training' if state.model.training else ''}")

    def penalty(self) -> Tensor | None:
        self.told.append(f"{self.name} penalises")
        return None

    def gradients_ready(self) -> None:
        self.told.append(f"{self.name} sees gradients")

    def epoch_ended(self, epoch: int) -> None:
        assert self.state is not None
        assert self.state.model.training
        self.told.append(f"{self.name} ends epoch {epoch}")

    def end(self) -> None:
        self.told.append(f"{self.name} ends")


class Penalty(Hook):
    def __init__(self, value: Callable[[nn.Module], Tensor]) -> None:
        self._value = value

    def begin(self, state: TrainingState) -> None:
        self._model = state.model

    def penalty(self) -> Tensor:
        return self._value(self._model)


class Watching(Hook):
    """Keeps a copy of the gradients and of the weights they belong to."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []

    def begin(self, state: TrainingState) -> None:
        self._model = state.model

    def gradients_ready(self) -> None:
        named = dict(self._model.named_parameters())
        self.gradients.append({name: value.grad.clone() for name, value in named.items()})
        self.weights.append({name: value.detach().clone() for name, value in named.items()})


class Failing(Hook):
    def __init__(self, where: str) -> None:
        self._where = where

    def begin(self, state: TrainingState) -> None:
        self._fail("begin")

    def penalty(self) -> Tensor | None:
        self._fail("penalty")
        return None

    def gradients_ready(self) -> None:
        self._fail("gradients_ready")

    def epoch_ended(self, epoch: int) -> None:
        self._fail("epoch_ended")

    def _fail(self, where: str) -> None:
        if where == self._where:
            raise RuntimeError(f"{where} failed")


def test_hooks_are_called_one_after_the_other_at_every_place(digits):
    told: list[str] = []
    epochs: list[str] = []
    fit(
        network(),
        digits,
        Telling("a", told),
        Telling("b", told),
        on_epoch=lambda epoch, _loss: epochs.append(f"{epoch} after {told[-1]}"),
    )

    def both(what: str) -> list[str]:
        return [f"a {what}", f"b {what}"]

    epoch = 3 * [*both("penalises"), *both("sees gradients")]
    assert told == [
        *both("begins training"),
        *[*epoch, *both("ends epoch 1")],
        *[*epoch, *both("ends epoch 2")],
        *both("ends"),
    ]
    assert epochs == ["1 after b ends epoch 1", "2 after b ends epoch 2"]


@pytest.mark.parametrize(("epochs", "ended"), [(0.4, 0), (1.0, 1), (1.7, 1), (3.0, 3)])
def test_only_whole_epochs_end(digits, epochs, ended):
    told: list[str] = []
    fit(network(), digits, Telling("a", told), recipe=Recipe(epochs=epochs, learning_rate=0.01, batch_size=32))
    assert [entry for entry in told if "epoch" in entry] == [f"a ends epoch {number + 1}" for number in range(ended)]


def test_a_hook_that_does_nothing_changes_no_bit(digits):
    options = {"augmentation": Augmentation(1), "teacher": network(5)}
    recipe = Recipe(epochs=2, learning_rate=0.05, batch_size=32, distillation=0.5, gradient_clip=1.0)
    plain = fit(network(), digits, recipe=recipe, **options)
    hooked = fit(network(), digits, Hook(), Telling("a", []), recipe=recipe, **options)
    assert state_fingerprint(plain) == state_fingerprint(hooked)


def test_a_penalty_adds_its_value_to_the_loss(digits):
    def loss(*hooks: Hook) -> float:
        return train(network(), digits, range(IMAGES), ONE_STEP, seed=0, hooks=hooks).loss

    five, two = Penalty(lambda _model: torch.tensor(5.0)), Penalty(lambda _model: torch.tensor(2.0))
    assert loss(five, two) == pytest.approx(loss() + 7, rel=1e-6)


def test_a_penalty_adds_its_gradient_to_the_step(digits):
    before = network()
    plain = fit(copy.deepcopy(before), digits, recipe=ONE_STEP)
    pulled = fit(
        copy.deepcopy(before), digits, Penalty(lambda model: 0.5 * model.conv1.weight.square().sum()), recipe=ONE_STEP
    )
    # Without momentum and decay the penalty alone moves the weight by -rate * weight.
    rate = ONE_STEP.rate(0, images=IMAGES)
    torch.testing.assert_close(pulled.conv1.weight, plain.conv1.weight - rate * before.conv1.weight)
    torch.testing.assert_close(pulled.fc.weight, plain.fc.weight)


def test_a_penalty_that_is_not_finite_is_a_divergence(digits):
    with pytest.raises(DivergenceError, match="the loss is nan"):
        fit(network(), digits, Penalty(lambda _model: torch.tensor(float("nan"))))


def test_gradients_are_seen_unclipped_before_the_optimiser_moves(digits):
    recipe = Recipe(
        epochs=0.001, learning_rate=1.0, batch_size=IMAGES, momentum=0.0, weight_decay=0.0, gradient_clip=0.01
    )
    before, watching = network(), Watching()
    after = fit(copy.deepcopy(before), digits, watching, recipe=recipe)
    named = dict(before.named_parameters())
    assert all(torch.equal(value, named[name]) for name, value in watching.weights[0].items())
    norm = torch.stack([gradient.square().sum() for gradient in watching.gradients[0].values()]).sum().sqrt()
    assert norm > 0.05
    for name, value in after.named_parameters():
        step = named[name] - value
        torch.testing.assert_close(step, watching.gradients[0][name] * 0.01 / norm, rtol=1e-3, atol=1e-7)


def test_a_gradient_that_a_hook_removes_moves_nothing(digits):
    class Protecting(Hook):
        def begin(self, state: TrainingState) -> None:
            self._model = state.model

        def gradients_ready(self) -> None:
            self._model.conv1.weight.grad[1] = 0

    recipe = Recipe(epochs=2, learning_rate=0.05, batch_size=32, weight_decay=0.0)
    before = network()
    after = fit(copy.deepcopy(before), digits, Protecting(), recipe=recipe)
    assert torch.equal(after.conv1.weight[1], before.conv1.weight[1])
    assert not torch.equal(after.conv1.weight[0], before.conv1.weight[0])


def test_momentum_can_be_cleared_when_an_epoch_has_ended(digits):
    class Zeroing(Hook):
        def begin(self, state: TrainingState) -> None:
            self._state = state

        def epoch_ended(self, epoch: int) -> None:
            weight = self._state.model.conv1.weight
            with torch.no_grad():
                weight[0] = 0
            self._state.optimiser.state[weight]["momentum_buffer"][0] = 0

    class Frozen(Zeroing):
        def gradients_ready(self) -> None:
            if self._state.optimiser.state:
                self._state.model.conv1.weight.grad[0] *= float(
                    not bool((self._state.model.conv1.weight[0] == 0).all())
                )

    after = fit(network(), digits, Frozen(), recipe=Recipe(epochs=2.5, learning_rate=0.05, batch_size=32))
    assert bool((after.conv1.weight[0] == 0).all())
    assert not bool((after.conv1.weight[1] == 0).any())


@pytest.mark.parametrize("where", ["begin", "penalty", "gradients_ready", "epoch_ended"])
def test_every_hook_ends_when_one_of_them_raises(digits, where):
    told: list[str] = []
    model = network()
    with pytest.raises(RuntimeError, match=f"{where} failed"):
        fit(model, digits, Telling("a", told), Failing(where), Telling("b", told))
    assert told[-2:] == ["a ends", "b ends"]
    assert told.count("a ends") == told.count("b ends") == 1
    assert not model.training


def test_hooks_end_when_the_training_diverges(digits):
    told: list[str] = []
    with pytest.raises(DivergenceError):
        fit(network(), digits, Telling("a", told), recipe=Recipe(epochs=3, learning_rate=1e12))
    assert told[-1] == "a ends"


def test_hooks_end_when_a_callback_raises(digits):
    told: list[str] = []

    def stop(_epoch: int, _loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(), digits, Telling("a", told), on_epoch=stop)
    assert told[-2:] == ["a ends epoch 1", "a ends"]


def test_the_state_tells_model_device_and_epochs(digits):
    model, hook = network(), Telling("a", [])
    fit(model, digits, hook, recipe=Recipe(epochs=1.5, learning_rate=0.01, batch_size=32))
    assert hook.state is not None
    assert hook.state.model is model
    assert hook.state.epochs == 1.5
    assert hook.state.device == torch.device("cpu")
    held = {id(value) for group in hook.state.optimiser.param_groups for value in group["params"]}
    assert held == {id(value) for value in model.parameters()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradients_are_seen_unscaled_in_half_precision(digits, monkeypatch):
    # Without bfloat16 the loss is scaled by 65536.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    found = []
    for mixed in (False, True):
        watching = Watching()
        recipe = Recipe(epochs=0.001, learning_rate=0.01, batch_size=IMAGES, mixed_precision=mixed)
        fit(network(), digits, watching, recipe=recipe, device="cuda")
        found.append(watching.gradients[0]["fc.weight"])
    torch.testing.assert_close(found[0], found[1], rtol=0.1, atol=0.01)
