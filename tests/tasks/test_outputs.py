"""Networks whose answers are no classes: how much of what varies in them a cut network says again."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.data.annotations import from_arrays, kind_of, to_arrays
from autoprune.data.answers import Answers
from autoprune.data.images import ArrayImages
from autoprune.data.preprocessing import Preprocessing
from autoprune.errors import DataError, ModelError
from autoprune.tasks.base import Objective
from autoprune.tasks.outputs import Outputs, rows_of
from autoprune.tasks.registry import TASKS_OF, make_task


class Says(nn.Module):
    """Answers with what it was given, in the order of the images in a batch."""

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.at = answers, 0

    def forward(self, images):
        rows = slice(self.at, self.at + len(images))
        self.at += len(images)
        return tuple(item[rows] for item in self.answers)


def fidelity(found, wanted, batches=(5,)):
    """Returns what the task measures of answers, given in batches of these sizes."""
    task = Outputs()
    images = [torch.zeros(size, 1, 2, 2) for size in batches]
    targets = task.reference(Says(*wanted), [(item, None) for item in images])
    meter, network = task.meter(), Says(*found)
    for item, part in zip(images, targets.split(batches), strict=True):
        meter.add(network, item, part)
    return meter.result()


def naive(found, wanted):
    """The formula of the docstring, with loops over tensors and numbers."""
    shares = []
    for mine, theirs in zip(found, wanted, strict=True):
        variance = error = 0.0
        for one, other in zip(mine.flatten(1).T, theirs.flatten(1).T, strict=True):
            variance += float(((other - other.mean()) ** 2).mean())
            error += float(((one - other) ** 2).mean())
        shares.append(variance / (variance + error))
    return sum(shares) / len(shares)


@pytest.fixture
def answers():
    torch.manual_seed(0)
    wanted = (torch.randn(5, 3, 4) + 2, 100 * torch.randn(5, 7))
    return tuple(item + 0.3 * item.std() * torch.randn_like(item) for item in wanted), wanted


@pytest.mark.parametrize("batches", [(5,), (2, 3), (1, 1, 1, 1, 1)])
def test_fidelity_is_variance_over_variance_and_error_however_images_are_batched(answers, batches):
    measured = fidelity(*answers, batches)
    assert measured["accuracy"] == measured["fidelity"] == pytest.approx(naive(*answers), rel=1e-6)
    assert 0.85 < measured["accuracy"] < 0.98


def test_the_dense_network_has_all_of_it_and_the_mean_answer_half(answers):
    _, wanted = answers
    assert fidelity(wanted, wanted)["accuracy"] == 1
    assert fidelity(wanted, wanted)["loss"] == 0
    means = tuple(item.mean(0, keepdim=True).expand_as(item) for item in wanted)
    assert fidelity(means, wanted)["accuracy"] == pytest.approx(0.5)


def test_every_tensor_weighs_the_same_whatever_its_scale(answers):
    (small, large), wanted = answers
    one, other = fidelity((small, wanted[1]), wanted)["accuracy"], fidelity((wanted[0], large), wanted)["accuracy"]
    assert one + other - 1 == pytest.approx(fidelity((small, large), wanted)["accuracy"])


def test_of_answers_that_never_vary_the_error_counts_by_their_size():
    wanted = (torch.full((4, 3), 2.0),)
    assert fidelity(wanted, wanted, (4,))["accuracy"] == 1
    assert fidelity((torch.full((4, 3), 4.0),), wanted, (4,))["accuracy"] == pytest.approx(0.5)
    nothing = (torch.zeros(4, 3),)
    assert fidelity(nothing, nothing, (4,))["accuracy"] == 1
    assert fidelity((torch.ones(4, 3),), nothing, (4,))["accuracy"] == 0.5


def test_of_large_answers_the_same_thousand_numbers_are_compared_every_time():
    torch.manual_seed(0)
    wanted = (torch.randn(5, 40, 100), torch.randn(5, 10))
    task, images = Outputs(), torch.zeros(5, 1, 2, 2)
    first, second = (task.reference(Says(*wanted), [(images, None)]) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (5, 512 + 10)
    assert set(first[0, :512].tolist()) <= set(wanted[0][0].flatten().tolist())
    noisy = tuple(item + 0.5 * torch.randn_like(item) for item in wanted)
    assert fidelity(noisy, wanted)["accuracy"] == pytest.approx(naive(noisy, wanted), abs=0.03)


def test_what_counts_has_a_row_for_each_image():
    found = {
        "map": torch.zeros(2, 3, 4, 4),
        "one number": torch.zeros(2),
        "indices": torch.zeros(2, 3, dtype=torch.int64),
        "all images at once": torch.zeros(3, 3),
        "a constant": torch.tensor(1.0),
        "empty": torch.zeros(2, 0),
        "nothing": None,
    }
    assert [tuple(item.shape) for item in rows_of(found, 2)] == [(2, 48), (2, 1)]


@pytest.mark.parametrize(("outputs", "reason"), [
    (torch.zeros(3, 4), "no floating-point tensor with a row for each image"),
    ("words", "no floating-point tensor with a row for each image"),
    ([torch.zeros(2, 4), torch.full((2, 3), float("nan"))], "not finite"),
])  # fmt: skip
def test_networks_that_say_nothing_of_an_image_are_refused(outputs, reason):
    with pytest.raises(ModelError, match=reason):
        Outputs().check_outputs(outputs, images=torch.zeros(2, 1, 2, 2), classes=0, model="Mine", data="theirs")


def test_answers_of_another_size_are_no_answers(answers):
    with pytest.raises(ModelError, match="other sizes than the dense network's"):
        fidelity((torch.zeros(5, 3), torch.zeros(5, 7)), answers[1])


class Normed(nn.Module):
    """Answers with a pair in eval mode and with one tensor in training mode, as detectors of other libraries do."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        found = self.norm(self.conv(x))
        return found if self.training else (found, found.mean((2, 3)))


def test_the_loss_is_the_negative_logarithm_of_the_fidelity():
    model, teacher, x = Normed(0).train(), Normed(1).eval(), torch.randn(6, 1, 5, 5)
    loss = Outputs().loss(model, x, None, teacher=teacher, objective=Objective(), precision=nullcontext())
    with torch.no_grad():
        found, wanted = (rows_of(item(x), 6) for item in (model.eval(), teacher))
    logs = [math.log(naive([mine], [theirs])) for mine, theirs in zip(found, wanted, strict=True)]
    assert loss.item() == pytest.approx(-sum(logs) / 2, rel=1e-4)


def test_without_a_teacher_the_answers_that_were_kept_are_learnt():
    model, teacher, x = Normed(0).train(), Normed(1).eval(), torch.randn(6, 1, 5, 5)
    task = Outputs()
    targets = task.reference(teacher, [(x, None)])
    common = {"objective": Objective(), "precision": nullcontext()}
    alone = task.loss(model, x, targets, teacher=None, **common)
    assert alone.item() == pytest.approx(task.loss(model, x, targets, teacher=teacher, **common).item(), rel=1e-4)


def test_training_leaves_batch_norms_and_the_mode_alone():
    model, x = Normed(0).train(), torch.randn(6, 1, 5, 5)
    before = model.norm.running_mean.clone()
    loss = Outputs().loss(model, x, None, teacher=Normed(1).eval(), objective=Objective(), precision=nullcontext())
    loss.backward()
    assert model.training
    assert model.norm.training
    assert torch.equal(model.norm.running_mean, before)
    assert float(model.conv.weight.grad.abs().sum()) > 0


def test_a_server_gets_the_first_answer():
    x = torch.randn(2, 1, 5, 5)
    model = Normed(0).eval()
    assert torch.equal(Outputs().served(model)(x), model(x)[0])


def test_it_goes_by_its_name_and_is_what_no_kind_of_target_asks_for():
    assert make_task("outputs").reported == "fidelity"
    assert TASKS_OF["nothing"].name == "imitation"


def test_answers_travel_as_arrays():
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    answers = Answers(values)
    again = from_arrays(to_arrays(answers.select([3, 1]), "train"), "train")
    assert again.targets([0], torch.device("cpu")).tolist() == [[9, 10, 11]]
    pixels, labels = np.zeros((4, 1, 2, 2), np.uint8), np.full(4, -1)
    preprocessing = Preprocessing((0.5,), (0.5,))
    assert kind_of(ArrayImages(pixels, labels, preprocessing, answers)) == "answers"
    assert kind_of(ArrayImages(pixels, labels, preprocessing)) == "nothing"
    assert answers.rarest_classes().tolist() == [0] * 4


@pytest.mark.parametrize("values", [np.zeros(3, np.float32), np.zeros((3, 2))])
def test_answers_of_other_shapes_and_types_are_refused(values):
    with pytest.raises(DataError, match="float32 of shape"):
        Answers(values)
