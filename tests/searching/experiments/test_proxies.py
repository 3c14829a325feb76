import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Subset
from toy_problem import sets

from autoprune.cli.edge import run as command_line
from autoprune.core.seeds import derive_seed
from autoprune.data.bundle import as_images
from autoprune.evaluation.evaluator import CandidateEvaluator
from autoprune.report.observer import NullObserver
from autoprune.searching.experiments.proxies import PROXIES, divided, recommended, stratified_structures
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import load_problem
from autoprune.searching.search.preparation import prepare

CHECK = [
    *("check-proxy", "--model", "toy_problem:network", "--data", "toy_problem:sets", "--backend", "serial"),
    *("--structures", "5", "--budget", "60%flops", "--holdout-images", "30", "--calibration-images", "30"),
]


@pytest.fixture
def checked(folder):
    assert command_line([*CHECK, "--out", "check"]) == 0
    return folder / "check" / PROXIES


def test_every_score_is_compared_with_the_finetune_and_costs_less(checked):
    content = json.loads(checked.read_text())
    assert len(content["proxies"]) == 4  # the cheap rung's images are all there are: one row a merge, and the finetune
    assert len(content["measured"]) == 5 * (4 + 1)
    for row in content["proxies"]:
        assert row["structures"] == 5
        assert row["tau"] is None or row["low"] <= row["tau"] <= row["high"]
    assert content["finetune"]["images"] == 30
    assert 0 <= content["finetune"]["lowest"] <= content["finetune"]["highest"] <= 1


def test_a_finetune_made_twice_is_a_score_itself_on_the_images_of_the_scores(folder, capsys, monkeypatch):
    twice, path = [*CHECK, "--twice", "--out", "check"], folder / "check" / PROXIES
    score, seeds, read = CandidateEvaluator.evaluate, {}, {}

    def noting(self, candidate):
        seeds.setdefault(candidate.fidelity.name, []).append(candidate.seed)
        read[candidate.fidelity.name] = self._subject.holdout.take(range(30))
        return score(self, candidate)

    monkeypatch.setattr(CandidateEvaluator, "evaluate", noting)
    assert command_line(twice) == 0
    # Other seeds, other finetunes; and other images than those that judge.
    assert len({*seeds["finetune-1"], *seeds["finetune-1 as a score"]}) == 2 * 5
    assert seeds["sequential 30/30"] == seeds["finetune-1"]
    assert torch.equal(read["finetune-1 as a score"], read["sequential 30/30"])
    assert not torch.equal(read["finetune-1 as a score"], read["finetune-1"])
    content = json.loads(path.read_text())
    measured = content["measured"]
    assert len(content["proxies"]) == 4
    assert len(measured) == 5 * (4 + 2)
    judged, second, scores = (0.5, 0.6, 0.7, 0.8, 0.9), (0.5, 0.7, 0.6, 0.9, 0.8), (0.1, 0.2, 0.3, 0.5, 0.4)
    for number in range(5):
        measured[f"{number} finetune-1"]["accuracy"] = judged[number]
        measured[f"{number} finetune-1 as a score"]["score"] = second[number]
        measured[f"{number} sequential 30/30"]["score"] = scores[number]
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert command_line([*twice, "--min-tau", "0.9"]) == 0
    printed = capsys.readouterr().out
    assert "The finetune itself with another seed, on the images of the scores, has a tau of +0.60" in printed
    assert "Nothing reaches a tau of 0.9 on these images" in printed
    again = json.loads(path.read_text())
    assert again["finetune"]["as_score"]["tau"] == pytest.approx(0.6)
    assert (again["finetune"]["lowest"], again["finetune"]["highest"]) == (0.5, 0.9)
    [row] = [row for row in again["proxies"] if row["name"] == "sequential 30/30"]
    assert row["tau"] == pytest.approx(0.8)
    # What was measured once and what twice are two checks.
    assert command_line([*CHECK, "--out", "check"]) == 2


def test_what_was_measured_is_not_measured_again(checked, folder):
    content = json.loads(checked.read_text())
    content["measured"]["0 slice 30/30"]["score"] = 0.123
    del content["measured"]["1 slice 30/30"]
    checked.write_text(json.dumps(content))
    assert command_line([*CHECK, "--out", "check"]) == 0
    again = json.loads(checked.read_text())["measured"]
    assert again["0 slice 30/30"]["score"] == 0.123
    assert again["1 slice 30/30"]["score"] > 0


def test_what_failed_in_an_earlier_process_is_tried_again_once(checked, monkeypatch):
    content = json.loads(checked.read_text())
    for key in ("0 slice 30/30", "1 slice 30/30"):
        content["measured"][key] = {"widths": [4, 4], "seconds": 0.1, "failed": "its worker died 4 times"}
    checked.write_text(json.dumps(content))
    build, tried = CandidateEvaluator.build, []

    def failing(self, structure, fidelity, **others):
        tried.append(fidelity.name)
        if len(tried) == 2:
            raise RuntimeError("still bad luck")
        return build(self, structure, fidelity, **others)

    monkeypatch.setattr(CandidateEvaluator, "build", failing)
    assert command_line([*CHECK, "--out", "check"]) == 0
    assert tried == ["slice 30/30", "slice 30/30"]
    again = json.loads(checked.read_text())
    assert again["measured"]["0 slice 30/30"]["score"] > 0
    assert again["failures"] == ["1 slice 30/30: RuntimeError: still bad luck"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "7"], "holds the check of another network, budget or seed"),
        (["--structures", "4"], "--structures is 4, but must be at least 5"),
        (["--structures", "100000000"], "--structures is 100000000, but must be at most 10000"),
        (["--epochs", "0"], "--epochs is 0, but must be a finite number above 0"),
        (["--min-tau", "2"], "--min-tau is 2, but must lie in"),
        (["--structures", "500"], "distinct structures lie on this budget"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_line(checked, capsys, change, message):
    capsys.readouterr()
    assert command_line([*CHECK, "--out", "check", *change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert "Traceback" not in error


def test_a_record_that_is_no_record_is_left_alone(checked, capsys):
    checked.write_text("{broken")
    assert command_line([*CHECK, "--out", "check"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert checked.read_text() == "{broken"


@pytest.fixture
def prepared(folder):
    sizes = {"calibration_images": 8, "holdout_images": 8}
    options = SearchOptions(model="toy_problem:network", data="toy_problem:sets", budgets=("60%flops",), **sizes)
    return prepare(load_problem(options, NullObserver()), options, NullObserver())


def test_no_score_trains_on_the_images_that_judge_the_finetune(prepared):
    scoring, judging = divided(prepared)
    judges = set(judging.split.holdout)
    assert judges & set(prepared.split.training)
    for split in (scoring.split, judging.split):
        assert not judges & (set(split.training) | set(split.calibration))
    assert list(scoring.split.holdout) == list(prepared.split.holdout)


@pytest.mark.parametrize(("validation", "holdout", "each"), [(40, 12, 12), (30, 20, 15), (31, 31, 15)])
def test_a_validation_set_scores_and_judges_with_different_images_of_all_classes(prepared, validation, holdout, each):
    train = sets()[0]
    labels = train.tensors[1][:validation]
    # Sorted by class, as folders are.
    own = as_images(Subset(train, labels.argsort(stable=True).tolist()))
    data = replace(prepared.problem.data, validation=own)
    split = data.split(holdout=holdout, calibration=8, seed=derive_seed(0, "split"))
    scoring, judging = divided(replace(prepared, problem=replace(prepared.problem, data=data), split=split))
    scores, judges = set(scoring.split.holdout), set(judging.split.holdout)
    assert len(scores) == len(judges) == each
    assert not scores & judges
    assert scores <= set(split.holdout)
    for part in (scoring.split, judging.split):
        assert part.apart
        assert list(part.training) == list(split.training)
        assert set(np.asarray(own.labels)[part.holdout]) == set(labels.tolist())


def test_structures_are_distinct_within_budget_and_begin_with_uniform_widths(folder):
    options = SearchOptions(
        model="toy_problem:network", data="toy_problem:sets", budgets=("60%flops",), scope="coupled"
    )
    prepared = prepare(load_problem(options, NullObserver()), options, NullObserver())
    found = stratified_structures(prepared, 12)
    assert found[0] == prepared.space.uniform()
    assert len(set(found)) == 12
    assert all(prepared.space.is_legal(structure) for structure in found)


def test_the_cheapest_trusted_score_is_recommended():
    rows = [
        {"name": "cheap", "tau": 0.5, "seconds": 1.0},
        {"name": "good", "tau": 0.85, "seconds": 2.0},
        {"name": "best", "tau": 0.95, "seconds": 3.0},
        {"name": "undefined", "tau": None, "seconds": 0.1},
    ]
    assert recommended(rows, 0.8) == "good"
    assert recommended(rows, 0.99) is None
