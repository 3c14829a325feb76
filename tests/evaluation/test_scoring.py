from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoprune.core.candidate import Merge
from autoprune.evaluation import scoring
from autoprune.evaluation.evaluator import CandidateEvaluator, fidelity_for
from autoprune.evaluation.scoring import Scorer, first
from autoprune.models.cutting.folding import Form, PassingNorm2d
from autoprune.models.modules.replicas import replicate
from tests.evaluation.subjects import candidate, factory

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject():
    _, made = factory("residual with projections")
    return made.subject(made.arrays)


def judged(subject, count: int):
    batches = [(subject.holdout.take(np.arange(count)), torch.from_numpy(subject.holdout.labels[:count]))]
    return subject.task.judge(subject.model, batches, subject.dense_logits[:count])


@pytest.mark.parametrize(("count", "parts"), [(48, 1), (20, 1), (20, 3), (1000, 1)])
def test_scores_are_those_of_the_network_as_it_was(subject, monkeypatch, count, parts):
    monkeypatch.setitem(scoring._BATCH_FLOATS, "cpu", 7 * 3 * 144)
    found = Scorer(subject, CPU).score(replicate(subject.model, {}, {}), count, parts=parts)
    assert found == pytest.approx(judged(subject, min(count, 48)), rel=1e-5)


def test_a_holdout_that_is_too_large_to_keep_is_read_again(subject, monkeypatch):
    monkeypatch.setattr(scoring, "_KEPT_FLOATS", 0)
    scorer = Scorer(subject, CPU)
    found = [scorer.score(replicate(subject.model, {}, {}), 48) for _ in range(2)]
    assert found[0] == found[1] == pytest.approx(judged(subject, 48), rel=1e-5)
    assert "_whole" not in vars(scorer)


def test_a_network_that_takes_no_other_form_is_scored_as_it_is(subject, monkeypatch):
    assert Scorer(subject, CPU).form == Form(folded=True, in_place=True, channels_last=True)
    monkeypatch.setattr(scoring, "fastest_form", lambda *_: Form())
    model = replicate(subject.model, {}, {})
    assert Scorer(subject, CPU).score(model, 48) == pytest.approx(judged(subject, 48), rel=1e-5)
    assert not any(isinstance(module, PassingNorm2d) for module in model.modules())


def test_reconstruction_on_images_with_channels_last_is_the_same():
    _, made = factory("residual with projections")
    given = made.subject(made.arrays)
    wanted = candidate(made, 0.5, fidelity_for(Merge.SEQUENTIAL, level=0, calibration=32, holdout=48))
    built = []
    for form in (Form(), Form(channels_last=True)):
        evaluator = CandidateEvaluator(replace(given))
        evaluator._scorer.__dict__["form"] = form
        built.append(evaluator.build(wanted.structure, wanted.fidelity, seed=0)[0])
    for found, other in zip(*(model.state_dict().values() for model in built), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-3, atol=1e-4)


def test_the_first_images_end_within_a_batch():
    batches = [(torch.arange(4), ["a", "b", "c", "d"]), (torch.arange(4, 8), ["e", "f", "g", "h"])]
    assert [(inputs.tolist(), targets) for inputs, targets in first(batches, 5)] == [
        ([0, 1, 2, 3], ["a", "b", "c", "d"]),
        ([4], ["e"]),
    ]
    assert len(list(first(batches, 4))) == 1
