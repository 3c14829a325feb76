from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from autoprune.backends.evaluating import evaluate
from autoprune.core.candidate import Evaluation, Failure, Merge
from autoprune.core.seams import frozen_arrays
from autoprune.evaluation import scoring
from autoprune.evaluation.evaluator import SCORES, fidelity_for, first_images
from autoprune.evaluation.scoring import logits_of
from autoprune.models.costing.counting import count
from tests.evaluation.subjects import candidate, factory, pixels
from tests.models.toy_networks import toy


def rung(merge: Merge, *, epochs: float = 0.0, calibration: int = 32):
    return fidelity_for(merge, level=0, calibration=calibration, holdout=48, epochs=epochs)


@pytest.fixture(scope="module")
def made():
    return factory()


@pytest.fixture(scope="module")
def evaluator(made):
    return made[1].build(frozen_arrays(made[1].arrays), worker="w7")


@pytest.mark.parametrize("merge", Merge)
def test_the_dense_structure_scores_as_the_dense_network(made, evaluator, merge):
    model, factory_ = made
    outcome = evaluator.evaluate(candidate(factory_, 1.0, rung(merge)))
    assert isinstance(outcome, Evaluation)
    subject = factory_.subject(factory_.arrays)
    with torch.no_grad():
        logits = model(subject.holdout.take(np.arange(48)))
    labels = torch.from_numpy(subject.holdout.labels)
    assert outcome.accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert outcome.metrics["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    probability = logits.softmax(1)[torch.arange(48), labels].mean()
    assert outcome.metrics["probability"] == pytest.approx(float(probability), rel=1e-5)
    assert outcome.metrics["agreement"] == pytest.approx(1.0)
    assert outcome.worker == "w7"


def test_scoring_is_deterministic_and_leaves_the_subject_alone(made, evaluator):
    _, factory_ = made
    before = {name: array.copy() for name, array in factory_.arrays.items()}
    for merge in Merge:
        first, again = (evaluator.evaluate(candidate(factory_, 0.5, rung(merge, epochs=0.5))) for _ in range(2))
        assert first.metrics == again.metrics
    assert all(np.array_equal(before[name], array) for name, array in factory_.arrays.items())


def test_what_is_scored_costs_what_the_candidate_says(made, evaluator):
    _, factory_ = made
    wanted = candidate(factory_, 0.5, rung(Merge.SEQUENTIAL))
    model, kept = evaluator.build(wanted.structure, wanted.fidelity, seed=0)
    assert kept.structure == wanted.structure
    assert count(model, (1, 3, 12, 12)) == wanted.cost


def test_finetuning_changes_the_network(made, evaluator):
    _, factory_ = made
    scores = [evaluator.evaluate(candidate(factory_, 0.5, rung(Merge.SLICE, epochs=n))).metrics for n in (0.0, 1.0)]
    assert scores[0] != scores[1]


def test_a_finetune_takes_batches_of_the_size_that_suits_the_task(made, monkeypatch):
    class Detecting(type(made[1].task)):
        batch_size = 16

    recipes = []
    monkeypatch.setattr("autoprune.evaluation.evaluator.train", lambda *args, **_: recipes.append(args[3]))
    factory_ = dataclasses.replace(made[1], task=Detecting())
    built = factory_.build(frozen_arrays(factory_.arrays), worker="main")
    wanted = candidate(factory_, 0.5, rung(Merge.SLICE, epochs=1.0))
    for parts in (1, 2):
        built.build(wanted.structure, wanted.fidelity, seed=0, parts=parts)
    assert [recipe.batch_size for recipe in recipes] == [16, 8]


@pytest.mark.parametrize("score", SCORES)
def test_the_score_is_the_chosen_metric(made, score):
    _, factory_ = made
    chosen = dataclasses.replace(factory_, score=score)
    outcome = chosen.build(chosen.arrays, worker="main").evaluate(candidate(chosen, 0.6, rung(Merge.LEAST_SQUARES)))
    assert outcome.score == outcome.metrics[score]


def test_fewer_calibration_images_are_the_first_ones(made, evaluator):
    _, factory_ = made
    calibration = factory_.subject(factory_.arrays).calibration
    part = first_images(calibration, 8)
    assert all(torch.equal(part.targets[call], item[:8]) for call, item in calibration.targets.items())
    outcome = evaluator.evaluate(candidate(factory_, 0.5, rung(Merge.SEQUENTIAL, calibration=8)))
    assert isinstance(outcome, Evaluation)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory\nmore"), MemoryError(), ValueError("odd"), KeyError("k")]
)
def test_a_candidate_that_raises_is_a_failure_of_one_line(made, evaluator, monkeypatch, caplog, error):
    _, factory_ = made
    caplog.set_level("DEBUG", "autoprune")

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(evaluator, "build", broken)
    outcome = evaluate(evaluator, candidate(factory_, 0.5, rung(Merge.SLICE)), worker="main").outcome
    assert isinstance(outcome, Failure)
    assert outcome.reason.startswith(type(error).__name__)
    assert "\n" not in outcome.reason
    assert caplog.records[-1].exc_info[1] is error  # AUTOPRUNE_DEBUG=1 shows where it was raised


def test_outputs_that_are_not_finite_are_a_failure(made):
    _, factory_ = made
    arrays = {**factory_.arrays, "weights/head.bias": np.full(5, np.nan, dtype=np.float32)}
    outcome = factory_.build(arrays, worker="main").evaluate(candidate(factory_, 0.5, rung(Merge.SLICE)))
    assert isinstance(outcome, Failure)
    assert "not finite" in outcome.reason


def test_logits_do_not_depend_on_the_batch(monkeypatch):
    model, images = toy("plain"), pixels(11)
    whole = logits_of(model, images, np.arange(11), torch.device("cpu"))
    monkeypatch.setitem(scoring._BATCH_FLOATS, "cpu", 2 * 3 * 144)
    torch.testing.assert_close(logits_of(model, images, np.arange(11), torch.device("cpu")), whole)
    assert logits_of(model, images, np.array([4, 2]), torch.device("cpu")).shape == (2, 5)
