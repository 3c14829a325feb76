"""Networks that put out more while they are trained: the answers of auxiliary heads count in the loss."""

from __future__ import annotations

from collections import namedtuple
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.tasks.auxiliary import answers
from autoprune.tasks.base import Objective
from autoprune.tasks.classification import Classification
from autoprune.tasks.segmentation import Segmentation

Outputs = namedtuple("Outputs", "logits aux_logits2 aux_logits1")
PLAIN = Objective(distillation=0.0, temperature=2.0)


class Fixed(nn.Module):
    """Answers with what it was given."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> object:
        return self.answer


def loss(task, answer: object, targets: torch.Tensor, *, training: bool = True) -> float:
    inputs = torch.zeros(len(targets), 3, 4, 4)
    model = Fixed(answer).train(training)
    return float(task.loss(model, inputs, targets, teacher=None, objective=PLAIN, precision=nullcontext()))


@pytest.mark.parametrize(
    "together",
    [
        lambda main, aux, more: Outputs(main, aux, more),
        lambda main, aux, more: [main, (), aux, torch.zeros(6, 9), more, None],
        lambda main, aux, more: {"logits": main, "aux": aux, "features": torch.zeros(3, 9), "aux2": more},
    ],
    ids=["tuple", "list", "mapping"],
)
def test_auxiliary_classifiers_count_three_tenths_and_only_while_training(together):
    main, aux, more = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    alone = [loss(Classification(), item, targets) for item in (main, aux, more)]
    found = loss(Classification(), together(main, aux, more), targets)
    assert found == pytest.approx(alone[0] + 0.3 * (alone[1] + alone[2]))


def test_maps_of_deep_supervision_count_half_each_at_the_size_of_the_masks():
    chance = torch.Generator().manual_seed(0)
    main, small = torch.randn(2, 3, 4, 4, generator=chance), torch.randn(2, 3, 2, 2, generator=chance)
    targets = torch.randint(0, 3, (2, 4, 4), generator=chance)
    large = nn.functional.interpolate(small, (4, 4), mode="bilinear")
    alone = [loss(Segmentation(), item, targets) for item in (main, large)]
    assert loss(Segmentation(), (main, small), targets) == pytest.approx(alone[0] + 0.5 * alone[1])


def test_maps_that_are_called_aux_count_whatever_number_of_classes_they_have():
    chance = torch.Generator().manual_seed(0)
    main, aux = (torch.randn(2, classes, 4, 4, generator=chance) for classes in (3, 5))
    targets = torch.randint(0, 3, (2, 4, 4), generator=chance)
    alone = [loss(Segmentation(), item, targets) for item in (main, aux)]
    found = loss(Segmentation(), {"out": main, "aux": aux, "aux features": torch.zeros(2, 7, 4, 4)}, targets)
    assert found == pytest.approx(alone[0] + 0.5 * alone[1])
    assert loss(Segmentation(), {"out": main, "aux": torch.zeros(2, 7)}, targets) == pytest.approx(alone[0])


@pytest.mark.parametrize("task", [Classification(), Segmentation()])
def test_a_tuple_is_no_answer_in_eval_mode(task):
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ModelError):
        loss(task, (maps, maps), torch.zeros(2, 4, 4).long(), training=False)


def test_a_tensor_is_an_answer_alone():
    tensor = torch.zeros(2, 3)
    assert answers(tensor, training=True, name="logits") == (tensor, ())
    assert answers((), training=True, name="logits") == ((), ())
