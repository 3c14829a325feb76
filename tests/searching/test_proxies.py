import json
from dataclasses import replace

import numpy as np
import pytest
from torch.utils.data import Subset
from toy_problem import sets

from autoprune.cli.edge import run as command_line
from autoprune.core.seeds import derive_seed
from autoprune.data.bundle import as_images
from autoprune.evaluation.evaluator import CandidateEvaluator
from autoprune.report.observer import NullObserver
from autoprune.report.progress import kendall_tau
from autoprune.searching.options import SearchOptions
from autoprune.searching.preparation import prepare
from autoprune.searching.problems import load_problem
from autoprune.searching.proxies import PROXIES, divided, recommended, stratified_structures

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


def test_a_finetune_made_twice_is_compared_with_itself_and_scores_with_its_mean(folder, capsys, monkeypatch):
    twice, path = [*CHECK, "--twice", "--out", "check"], folder / "check" / PROXIES
    build, seeds = CandidateEvaluator.build, {}

    def noting(self, structure, fidelity, *, seed, **others):
        seeds.setdefault(fidelity.name, []).append(seed)
        return build(self, structure, fidelity, seed=seed, **others)

    monkeypatch.setattr(CandidateEvaluator, "build", noting)
    assert command_line(twice) == 0
    # Other seeds, other finetunes.
    assert len({*seeds["finetune-1"], *seeds["finetune-1 again"]}) == 2 * 5
    assert seeds["sequential 30/30"] == seeds["finetune-1"]
    content = json.loads(path.read_text())
    measured = content["measured"]
    assert len(content["proxies"]) == 4
    assert len(measured) == 5 * (4 + 2)
    first, second, scores = (0.5, 0.6, 0.7, 0.8, 0.9), (0.5, 0.7, 0.6, 0.9, 0.8), (0.1, 0.2, 0.3, 0.5, 0.4)
    for number in range(5):
        measured[f"{number} finetune-1"]["accuracy"] = first[number]
        measured[f"{number} finetune-1 again"]["accuracy"] = second[number]
        measured[f"{number} sequential 30/30"]["score"] = scores[number]
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert command_line(twice) == 0
    assert "The two seeds rank the structures with a tau of +0.60" in capsys.readouterr().out
    again = json.loads(path.read_text())
    assert again["finetune"]["again"]["tau"] == pytest.approx(0.6)
    means = np.mean([first, second], axis=0)
    assert (again["finetune"]["lowest"], again["finetune"]["highest"]) == pytest.approx((means.min(), means.max()))
    [row] = [row for row in again["proxies"] if row["name"] == "sequential 30/30"]
    assert row["tau"] == pytest.approx(kendall_tau(list(zip(scores, means, strict=True))))
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
