"""Long finetunes beside published figures: `autoprune experiment` with `kind = "published"`."""

from __future__ import annotations

import json
import re

import pytest
import torch
from toy_problem import wide

from autoprune.cli.edge import run as command_line
from autoprune.report.markdown.results import results_table
from autoprune.searching.experiments import runner

FILE = """
format = 1
kind = "published"
model = "toy_problem:network"
data = "toy_problem:sets"
budget = "50%flops"
candidates = 3
backend = "serial"
finetune_epochs = 2

[[published]]
method = "Others"
accuracy = 0.5
dense = 93.53
removed = 53.0
source = "their table"
"""


@pytest.fixture
def file(folder):
    (folder / "mine.toml").write_text(FILE)
    return folder / "results" / "mine.json"


def test_what_was_found_is_finetuned_and_written_down_beside_what_others_say(file):
    assert command_line(["experiment", "mine.toml"]) == 0
    content = json.loads(file.read_text())
    run, tuned = content["run"], content["finetuned"]
    assert run["incumbent"]["macs"] <= 0.5 * run["dense"]["macs"]
    assert run["finetune_epochs"] == 0
    assert tuned["accuracy_before"] == run["incumbent"]["accuracy"]
    # Two epochs of 60 images in batches of 32.
    assert (tuned["epochs"], tuned["steps"]) == (2, 4)
    assert content["published"] == [
        {"method": "Others", "accuracy": 0.5, "dense": 93.53, "removed": 53.0, "source": "their table"}
    ]
    assert [path.name for path in file.parent.iterdir()] == ["mine.json"]


def test_the_table_marks_whoever_is_best(file):
    assert command_line(["experiment", "mine.toml"]) == 0
    ours = 100 * json.loads(file.read_text())["finetuned"]["accuracy"]
    own, others = results_table(file.parent).splitlines()[2:]
    assert f"| **{ours:.2f}** | 2 |" in own
    assert others == "|  | Others (their table) | 53.0 % | 93.53 |  | 0.50 |  |"
    file.write_text(file.read_text().replace('"accuracy": 0.5,', '"accuracy": 100,'))
    own, others = results_table(file.parent).splitlines()[2:]
    assert f"| {ours:.2f} | 2 |" in own
    assert "| **100.00** |" in others


def test_one_that_was_stopped_while_it_finetuned_goes_on_there(file, monkeypatch):
    searched, run_search = [], runner.run_search
    monkeypatch.setattr(
        runner,
        "run_search",
        lambda options, observer: searched.append(1) or run_search(options, observer=observer),
    )

    def stopped(options, observer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "finetune", stopped)
        assert command_line(["experiment", "mine.toml"]) == 130
    assert not file.exists()
    assert command_line(["experiment", "mine.toml"]) == 0
    assert searched == [1]
    first = json.loads(file.read_text())
    file.unlink()
    assert command_line(["experiment", "mine.toml"]) == 0
    again = json.loads(file.read_text())
    assert searched == [1, 1]
    assert first["finetuned"]["accuracy"] == again["finetuned"]["accuracy"]
    assert first["run"]["incumbent"]["widths"] == again["run"]["incumbent"]["widths"]


def test_another_teacher_and_another_rate_are_what_the_finetune_reads(file, folder):
    assert command_line(["experiment", "mine.toml"]) == 0
    alone = json.loads(file.read_text())
    torch.save(wide().state_dict(), folder / "better.pt")
    taught = '[finetune]\nteacher = "better.pt"\nteacher_model = "toy_problem:wide"\nlearning_rate = 0.003\n'
    (folder / "mine.toml").write_text(FILE + taught)
    assert command_line(["experiment", "mine.toml"]) == 0
    content = json.loads(file.read_text())
    assert content["run"]["incumbent"]["widths"] == alone["run"]["incumbent"]["widths"]
    assert (content["finetuned"]["teacher"], content["finetuned"]["teacher_model"]) == ("better.pt", "toy_problem:wide")
    assert content["finetuned"]["recipe"]["learning_rate"] == 0.003 != alone["finetuned"]["recipe"]["learning_rate"]
    assert "teacher" not in alone["finetuned"]
    assert "| autoprune, taught by toy_problem:wide |" in results_table(file.parent)


@pytest.mark.parametrize("kind", ["published", "search"])
def test_a_search_that_finds_nothing_leaves_no_results_for_the_table(file, folder, monkeypatch, capsys, kind):
    def fail(self, *args, **kwargs):
        raise RuntimeError("out of everything")

    monkeypatch.setattr("autoprune.evaluation.evaluator.CandidateEvaluator.build", fail)
    if kind == "search":
        (folder / "mine.toml").write_text(FILE.partition("[[published]]")[0].replace('kind = "published"', ""))
    assert command_line(["experiment", "mine.toml"]) == 2
    assert "No candidate could be evaluated." in capsys.readouterr().err
    assert not file.exists()


def test_what_was_begun_by_another_file_is_not_gone_on_with(file, folder, monkeypatch):
    def stopped(options, observer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "finetune", stopped)
        assert command_line(["experiment", "mine.toml"]) == 130
    (folder / "mine.toml").write_text(
        FILE.replace("50%flops", "80%flops").replace("finetune_epochs = 2", "finetune_epochs = 3")
    )
    assert command_line(["experiment", "mine.toml"]) == 0
    content = json.loads(file.read_text())
    assert content["run"]["budget"] == ["80%flops"]
    assert content["finetuned"]["epochs"] == 3
    # Nothing that a candidate was scored on is trained on.
    assert content["finetuned"]["images"]["holdout"] == content["run"]["images"]["holdout"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("finetune_epochs = 2", ""), "finetune_epochs says how long"),
        (('method = "Others"', ""), r"[[published]] needs `method`, a text"),
        (("accuracy = 0.5", 'accuracy = "high"'), r"[[published]] needs `accuracy`, a number of percent"),
        (("removed = 53.0", "removed = true"), r"[[published]] needs `removed`, a number of percent"),
        (("removed = 53.0", "removd = 53.0"), "Did you mean 'removed'"),
        (("removed = 53.0", "removed = 153.0"), "removed is 153.0, but must lie in [0, 100] percent"),
        (("accuracy = 0.5", "accuracy = nan"), "accuracy is nan, but must lie in [0, 100] percent"),
        (("[[published]]", "[published]"), "a table [[published]] for each figure"),
        (("candidates = 3", 'methods = ["l1"]'), "unknown key 'methods'"),
        (("candidates = 3", 'finetune = "long"'), "finetune is a string, but must be a table [finetune]"),
        (("[[published]]", '[finetune]\nteachr = "a.pt"\n[[published]]'), "Did you mean 'teacher'"),
        (("[[published]]", '[finetune]\nteacher = "a.pt"\n[[published]]'), "The weights file 'a.pt' does not exist"),
        (("[[published]]", '[finetune]\nteacher_model = "a"\n[[published]]'), "says whose weights teacher names"),
        (("[[published]]", "[finetune]\nlearning_rate = 0\n[[published]]"), "learning_rate is 0, but must be above 0"),
    ],
)
def test_a_wrong_file_is_one_line_and_exit_code_two(folder, capsys, change, message):
    (folder / "mine.toml").write_text(FILE.replace(*change))
    assert command_line(["experiment", "mine.toml"]) == 2
    assert re.search(re.escape(message), capsys.readouterr().err.strip().splitlines()[-1])
    assert not list(folder.glob("results/*"))


def test_two_seeds_are_refused(file, capsys):
    assert command_line(["experiment", "mine.toml", "--seed", "1", "--seed", "2"]) == 2
    assert "one seed at a time" in capsys.readouterr().err
