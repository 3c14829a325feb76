from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from autoprune.data import ArrayImages, Augmentation, DatasetImages, Preprocessing, load_data
from autoprune.errors import ConfigError, DataError, DivergenceError, ModelError
from autoprune.evaluation.subject import FloatImages
from autoprune.models.zoo.families.cifar_resnet import CifarResNet
from autoprune.models.zoo.weights import state_fingerprint
from autoprune.tasks.classification import divergence
from autoprune.training import Recipe, finetune_recipe, measure, train
from autoprune.training.feed import make_feed

FAST = Recipe(epochs=2, learning_rate=0.05, batch_size=32)
CPU = torch.device("cpu")


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return CifarResNet(blocks=1, option="b", widths=(4, 8, 8), in_channels=1).eval()


@pytest.fixture(scope="module")
def digits() -> ArrayImages:
    images = load_data("digits").train
    assert isinstance(images, ArrayImages)
    return images


def test_training_learns(digits: ArrayImages) -> None:
    model = network()
    before = measure(model, digits)
    report = train(model, digits, range(700), FAST, seed=0)
    after = measure(model, digits, range(700, 1000))
    assert not model.training
    assert after.accuracy > before.accuracy + 0.2
    assert math.isfinite(report.loss)
    assert report.steps == round(2 * 700 / 32)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(digits: ArrayImages) -> None:
    prints = []
    for seed in (1, 1, 2):
        model = network()
        train(model, digits, range(200), FAST, seed=seed, augmentation=Augmentation(1), teacher=network(5))
        prints.append(state_fingerprint(model))
    assert prints[0] == prints[1] != prints[2]


def test_the_global_random_state_neither_matters_nor_changes(digits: ArrayImages) -> None:
    prints = []
    for global_seed in (7, 8):
        model = network()
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        train(model, digits, range(64), FAST, seed=1, augmentation=Augmentation(1, flip=True))
        assert torch.equal(torch.get_rng_state(), before)
        prints.append(state_fingerprint(model))
    assert prints[0] == prints[1]


def test_arrays_and_data_sets_train_to_the_same_network(digits: ArrayImages) -> None:
    part = np.arange(100)
    dataset = DatasetImages(TensorDataset(digits.take(part), torch.from_numpy(digits.labels[part])))
    models = []
    for images in (digits, dataset):
        models.append(network())
        train(models[-1], images, part, FAST, seed=3)
    assert state_fingerprint(models[0]) == state_fingerprint(models[1])


def test_only_the_images_at_the_indices_are_seen(digits: ArrayImages) -> None:
    seen: set[int] = set()

    class Watching(DatasetImages):
        def take(self, indices):
            seen.update(np.asarray(indices).tolist())
            return super().take(indices)

    dataset = TensorDataset(digits.take(range(50)), torch.from_numpy(digits.labels[:50]))
    train(network(), Watching(dataset), [3, 8, 21, 40], Recipe(epochs=2, learning_rate=0.01, batch_size=2), seed=0)
    assert seen == {3, 8, 21, 40}


@pytest.mark.parametrize(("epochs", "images", "steps"), [(0, 100, 0), (0.5, 128, 2), (1, 100, 3), (0.001, 100, 1)])
def test_epochs_may_be_fractions(epochs: float, images: int, steps: int, digits: ArrayImages) -> None:
    recipe = Recipe(epochs=epochs, learning_rate=0.01, batch_size=32)
    assert recipe.steps(images) == steps
    told: list[tuple[int, int]] = []
    report = train(network(), digits, range(images), recipe, seed=0, on_step=lambda *step: told.append(step))
    assert report.steps == steps
    assert told == [(number, steps) for number in range(1, steps + 1)]


def test_no_epoch_changes_nothing(digits: ArrayImages) -> None:
    model = network()
    before = state_fingerprint(model)
    assert train(model, digits, range(10), Recipe(epochs=0, learning_rate=0.1), seed=0).loss == 0
    assert state_fingerprint(model) == before


def test_every_epoch_is_reported_with_its_loss(digits: ArrayImages) -> None:
    told: list[tuple[int, float]] = []
    train(network(), digits, range(96), FAST, seed=0, on_epoch=lambda *epoch: told.append(epoch))
    assert [number for number, _ in told] == [1, 2]
    assert all(math.isfinite(loss) for _, loss in told)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    recipe = Recipe(epochs=10, learning_rate=1.0, batch_size=10, warmup_epochs=2)
    rates = [recipe.rate(step, images=100) for step in range(100)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert max(rates) == 1.0
    assert 0 < rates[-1] < 0.01
    assert Recipe(epochs=1, learning_rate=0.3, schedule="constant").rate(5, images=1000) == 0.3


def test_a_student_that_equals_its_teacher_does_not_diverge_from_it() -> None:
    logits = torch.randn(5, 3)
    assert float(divergence(logits, logits, temperature=4)) == pytest.approx(0, abs=1e-6)
    assert float(divergence(logits, logits.flip(0), temperature=4)) > 0


def test_distillation_alone_pulls_towards_the_teacher_and_leaves_it_alone(digits: ArrayImages) -> None:
    teacher, student = network(1), network(2)
    before = state_fingerprint(teacher)
    inputs = digits.take(range(200))
    gap = divergence(student(inputs), teacher(inputs), temperature=1).item()
    recipe = Recipe(epochs=3, learning_rate=0.05, batch_size=32, distillation=1.0)
    train(student, digits, range(200), recipe, seed=0, teacher=teacher)
    assert divergence(student(inputs), teacher(inputs), temperature=1).item() < 0.7 * gap
    assert state_fingerprint(teacher) == before


def test_a_loss_that_is_not_finite_is_an_error(digits: ArrayImages) -> None:
    with pytest.raises(DivergenceError, match="Lower the learning rate"):
        train(network(), digits, range(200), Recipe(epochs=3, learning_rate=1e12), seed=0)


def test_weights_that_are_not_finite_are_an_error(digits: ArrayImages) -> None:
    model = network()
    with torch.no_grad():
        model.fc.bias[0] = float("-inf")
    with pytest.raises(DivergenceError, match="diverged"):
        train(model, digits, range(32), Recipe(epochs=1, learning_rate=0.01, distillation=0.0), seed=0)


def test_clipping_bounds_the_step(digits: ArrayImages) -> None:
    model = network()
    before = copy.deepcopy(model)
    recipe = Recipe(epochs=0.001, learning_rate=1.0, momentum=0.0, weight_decay=0.0, gradient_clip=0.01)
    train(model, digits, range(64), recipe, seed=0)
    moved = sum(
        (a - b).detach().square().sum().item() for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )
    assert moved**0.5 == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"epochs": math.nan},
        {"learning_rate": 0},
        {"batch_size": 0},
        {"momentum": 1},
        {"schedule": "step"},
        {"distillation": 1.5},
        {"temperature": 0},
        {"gradient_clip": 0},
    ],
)
def test_impossible_recipes_are_refused_by_the_name_of_the_field(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Recipe(**{"epochs": 1, "learning_rate": 0.1, **wrong})


def test_the_finetune_recipe_distils() -> None:
    recipe = finetune_recipe(0.25, images=1_000)
    assert recipe.epochs == 0.25
    assert recipe.distillation > 0


def test_nothing_to_train_or_measure_on_is_an_error(digits: ArrayImages) -> None:
    with pytest.raises(DataError, match="no image to train"):
        train(network(), digits, [], FAST, seed=0)
    with pytest.raises(DataError, match="no image to measure"):
        measure(network(), digits, [])


def test_measuring_counts_restores_the_mode_and_changes_nothing(digits: ArrayImages) -> None:
    model = network().train()
    before = state_fingerprint(model)
    scores = measure(model, digits, range(70), batch_size=32)
    assert model.training
    assert state_fingerprint(model) == before
    with torch.no_grad():
        logits = model.eval()(digits.take(range(70)))
    labels = torch.from_numpy(digits.labels[:70])
    assert scores.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert scores.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert scores.images == 70


def test_a_model_with_too_few_outputs_or_no_logits_says_so(digits: ArrayImages) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ModelError, match="model has 3 outputs"):
        measure(flat, digits)
    with pytest.raises(ModelError, match=r"not \(images, classes\)"):
        measure(nn.Identity(), digits)


def test_batches_come_in_the_asked_order_from_every_kind_of_feed() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    arrays = ArrayImages(pixels, np.arange(6), Preprocessing((0.0,), (1 / 255,)))
    dataset = DatasetImages(TensorDataset(torch.arange(6.0).reshape(6, 1, 1, 1), torch.arange(6)))
    order = [np.asarray([2, 0]), np.asarray([1])]
    for images in (arrays, dataset):
        batches = list(make_feed(images, np.asarray([5, 3, 1]), CPU).batches(order))
        assert [labels.tolist() for _, labels in batches] == [[1, 5], [3]]
        assert [inputs.round().flatten().tolist() for inputs, _ in batches] == [[1, 5], [3]]


class Viewing(nn.Module):
    """Views its features as if they lay together, which those with channels last do not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4 * 16 * 16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.conv(x))
        return self.head(features.view(len(features), -1))


class Reshaping(Viewing):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))


class Striding(Viewing):
    """Reads its features in the order of memory: with channels last it would put out something else, without a word."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.conv(x))
        return self.head(features.as_strided((len(x), 4 * 16 * 16), (4 * 16 * 16, 1)))


@pytest.mark.parametrize(("kind", "last"), [(Viewing, False), (Striding, False), (Reshaping, True)])
def test_channels_lie_last_while_training_where_the_network_bears_it(kind: type[Viewing], last: bool) -> None:
    images = FloatImages(np.random.default_rng(0).standard_normal((40, 3, 32, 32), np.float32), np.arange(40) % 2)
    torch.manual_seed(0)
    model, seen = kind(), []
    model.conv.register_forward_hook(
        lambda module, inputs, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    train(model, images, range(40), Recipe(epochs=2, learning_rate=0.05, batch_size=20), seed=0)
    assert set(seen[-4:]) == {last}
    assert all(value.is_contiguous() for value in model.state_dict().values())
    torch.manual_seed(0)
    other = (Viewing if last else Reshaping)()
    train(other, images, range(40), Recipe(epochs=2, learning_rate=0.05, batch_size=20), seed=0)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mixed", [True, False])
def test_a_gpu_learns_in_place_and_leaves_contiguous_weights(mixed: bool, digits: ArrayImages) -> None:
    model = network()
    recipe = Recipe(epochs=4, learning_rate=0.05, batch_size=32, distillation=0.5, mixed_precision=mixed)
    train(model, digits, range(1000), recipe, seed=0, teacher=network(), augmentation=Augmentation(1), device="cuda")
    assert all(value.is_contiguous() for value in model.state_dict().values())
    assert measure(model, digits, range(1000), device="cuda").accuracy > 0.3


def test_a_short_finetune_is_gentle_and_a_long_one_no_wilder_than_sgd_is_elsewhere() -> None:
    rates = [finetune_recipe(epochs, images=50_000).learning_rate for epochs in (0.1, 1, 4, 100)]
    assert rates == sorted(rates)
    assert rates[0] < 0.004
    assert rates[1] == pytest.approx(0.01, rel=0.01)
    assert rates[-1] == 0.05
    assert finetune_recipe(0, images=100).steps(100) == 0
    taught = [finetune_recipe(epochs, images=50_000, features=True).learning_rate for epochs in (0.25, 1, 6, 100)]
    assert taught == pytest.approx([0.01, 0.02, 0.02, 0.02], rel=0.01)


@pytest.mark.parametrize("features", [False, True])
def test_the_rate_of_a_finetune_follows_its_steps_not_its_epochs(features: bool) -> None:
    short = finetune_recipe(1, images=1_000, features=features)
    long = finetune_recipe(16, images=1_000, features=features)
    assert short.learning_rate < 0.3 * finetune_recipe(1, images=50_000, features=features).learning_rate
    assert long.learning_rate == pytest.approx(
        finetune_recipe(0.32, images=50_000, features=features).learning_rate, rel=0.02
    )


def test_few_images_are_trained_on_in_smaller_batches_but_never_in_larger_ones_than_asked() -> None:
    sizes = [finetune_recipe(1, images=images).batch_size for images in (1, 1_000, 8_000, 50_000)]
    assert sizes == [32, 32, 62, 128]
    assert finetune_recipe(1, images=50_000, batch_size=16).batch_size == 16
    assert finetune_recipe(1, images=100, batch_size=16).batch_size == 16


def test_smaller_batches_do_not_raise_the_rate() -> None:
    few, usual = (finetune_recipe(1, images=1_000, batch_size=size) for size in (128, 32))
    assert few.batch_size == usual.batch_size
    assert few.learning_rate == pytest.approx(usual.learning_rate / 2)


class Overwriting(nn.Module):
    """Overwrites what a layer has read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        out = self.last(x).mean((2, 3))
        x.mul_(2)
        return out


def test_a_forward_that_overwrites_what_the_backward_needs_is_one_clear_line(digits: ArrayImages) -> None:
    with pytest.raises(
        ModelError, match=r"overwrites in place what the backward needs\. Write .* or do without"
    ) as found:
        train(Overwriting(), digits, range(8), FAST, seed=0)
    assert "\n" not in str(found.value)
