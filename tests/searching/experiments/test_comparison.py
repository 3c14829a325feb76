import json
from types import SimpleNamespace

import pytest

from autoprune.cli.edge import run as command_line
from autoprune.config import resources
from autoprune.report.markdown.results import results_table
from autoprune.searching.experiments import runner

FILE = """
format = 1
kind = "comparison"
model = "toy_problem:network"
data = "toy_problem:sets"
budgets = ["60%flops", "40%flops"]
methods = ["uniform", "l1", "search"]
candidates = 3
backend = "serial"
finetune_epochs = 1
"""


@pytest.fixture
def compared(folder):
    (folder / "mine.toml").write_text(FILE)
    assert command_line(["experiment", "mine.toml"]) == 0
    return folder / "results" / "mine.json"


def test_every_method_has_a_row_for_every_budget_and_keeps_within_it(compared):
    content = json.loads(compared.read_text())
    assert content["complete"]
    pairs = [(row["budget"], row["method"]) for row in content["rows"]]
    assert pairs == [(f"{share}%flops", method) for share in (60, 40) for method in ("uniform", "l1", "search")]
    for row in content["rows"]:
        assert row["macs"] <= int(row["budget"][:2]) / 100 * content["dense"]["macs"]
        assert all(0 <= row[key] <= 1 for key in ("own", "reconstructed", "finetuned", "holdout"))


def test_a_comparison_that_was_stopped_goes_on_where_it_was(compared, folder):
    content = json.loads(compared.read_text())
    first = dict(content["rows"][0], own=0.123)
    stopped = {**content, "rows": [first, *content["rows"][2:]], "complete": False, "commit": "before"}
    compared.write_text(json.dumps(stopped))
    assert command_line(["experiment", "mine.toml"]) == 0
    again = json.loads(compared.read_text())
    rows = again["rows"]
    assert rows[0]["own"] == 0.123
    # What was measured at another commit than the file says so itself.
    assert again["commit"] == "before"
    assert [row.get("commit", "before") for row in rows] == ["before"] * 5 + [content["commit"]]
    assert {(row["budget"], row["method"]) for row in rows} == {
        (row["budget"], row["method"]) for row in content["rows"]
    }


def test_a_finished_comparison_is_measured_anew(compared):
    content = json.loads(compared.read_text())
    compared.write_text(json.dumps({**content, "rows": [dict(content["rows"][0], own=0.123)]}))
    assert command_line(["experiment", "mine.toml"]) == 0
    again = json.loads(compared.read_text())
    figures = ("own", "reconstructed", "finetuned", "macs", "widths")
    assert [[row[key] for key in figures] for row in again["rows"]] == [
        [row[key] for key in figures] for row in content["rows"]
    ]


def test_a_method_that_fails_has_a_row_that_says_why(folder):
    (folder / "mine.toml").write_text(
        FILE.replace('"search"]', '"toy_methods:Greedy"]').replace('["60%flops", "40%flops"]', '["60%flops"]')
    )
    (folder / "toy_methods.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from autoprune.errors import ModelError\n"
        "@dataclass(frozen=True)\n"
        "class Greedy:\n"
        "    as_published: bool = False\n"
        "    source: ClassVar[str] = 'test'\n"
        "    trains: ClassVar[bool] = False\n"
        "    def prune(self, subject):\n"
        "        raise ModelError('nothing to keep')\n"
    )
    import sys

    sys.path.insert(0, str(folder))
    try:
        assert command_line(["experiment", "mine.toml"]) == 0
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("toy_methods", None)
    rows = json.loads((folder / "results" / "mine.json").read_text())["rows"]
    assert [row.get("failed") for row in rows] == [None, None, "nothing to keep"]
    assert "failed: nothing to keep" in results_table(folder / "results")


def test_the_best_of_each_column_is_bold_and_the_rest_is_shown(compared):
    rows = json.loads(compared.read_text())["rows"]
    lines = [line.strip("| ").split(" | ") for line in results_table(compared.parent).splitlines()]
    shown = {line[0]: line[1:] for line in lines if line[0] in ("uniform", "l1", "search")}
    assert len(shown) == 3
    for offset, budget in enumerate(("60%flops", "40%flops")):
        for column, key in enumerate(("own", "reconstructed", "finetuned")):
            values = {row["method"]: row[key] for row in rows if row["budget"] == budget}
            for method, value in values.items():
                text = f"{100 * value:.2f}"
                best = value == max(values.values())
                assert shown[method][4 * offset + column] == (f"**{text}**" if best else text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('kind = "comparison"', 'kind = "race"'), "kind 'race' is not known"),
        (('methods = ["uniform", "l1", "search"]', ""), "a comparison needs `methods`"),
        (('"l1"', '"l11"'), "Unknown method 'l11'"),
        (('budgets = ["60%flops", "40%flops"]', 'budget = "50%flops"'), "a comparison needs `budgets`"),
        (('"40%flops"', '"4%%flops"'), "Cannot read the budget"),
        (("candidates = 3", "candidate = 3"), "unknown key 'candidate'"),
        (('"40%flops"', '"20..80%flops"'), "mine.toml: the budget '20..80%flops' is a range"),
        (('"40%flops"', '"60%flops"'), "mine.toml: budgets names '60%flops' more than once"),
        (('"l1"', '"uniform"'), "mine.toml: methods names 'uniform' more than once"),
    ],
)
def test_a_wrong_file_is_one_line_and_exit_code_two(folder, capsys, change, message):
    (folder / "mine.toml").write_text(FILE.replace(*change))
    assert command_line(["experiment", "mine.toml"]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(folder.glob("results/*.json"))


def test_a_search_refuses_the_file_of_a_comparison(folder, capsys):
    (folder / "mine.toml").write_text(FILE)
    assert command_line(["search", "--experiment", "mine.toml"]) == 2
    assert "is more than a search (comparison)" in capsys.readouterr().err


def test_a_search_is_recorded_for_every_seed(folder, capsys):
    (folder / "mine.toml").write_text(
        'format = 1\nmodel = "toy_problem:network"\ndata = "toy_problem:sets"\nbudget = "50%flops"\ncandidates = 3\n'
        'backend = "serial"\nfinetune_epochs = 0\nno_mlflow = true\n'
    )
    assert command_line(["experiment", "mine.toml", "--seed", "1", "--seed", "2", "--results", "kept"]) == 0
    content = json.loads((folder / "kept" / "mine.json").read_text())
    assert [run["seed"] for run in content["runs"]] == [1, 2]
    capsys.readouterr()
    assert command_line(["experiment", "--table", "kept"]) == 0
    assert "toy_problem:network" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "variable", "untracked"),
    [
        ("", None, True),
        ('tracking_uri = "sqlite:///mine.db"\n', None, False),
        ("", "sqlite:///mine.db", False),
        ('tracking_uri = "sqlite:///mine.db"\nno_mlflow = true\n', None, True),
    ],
)
def test_a_search_writes_no_store_beside_a_folder_that_is_thrown_away(folder, monkeypatch, line, variable, untracked):
    asked = []

    def searched(options, *, observer):
        asked.append(options)
        return SimpleNamespace(summary={"seed": options.seed}, require_found=lambda: None)

    monkeypatch.setattr(runner, "run_search", searched)
    if variable is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    (folder / "mine.toml").write_text(f'format = 1\nmodel = "toy_problem:network"\nbudget = "50%flops"\n{line}')
    assert command_line(["experiment", "mine.toml"]) == 0
    assert [options.no_mlflow for options in asked] == [untracked]


def test_results_of_what_ships_with_an_installed_autoprune_go_to_the_working_directory(folder, monkeypatch, capsys):
    shipped = folder / "share" / "autoprune" / "experiments" / "mine.toml"
    shipped.parent.mkdir(parents=True)
    shipped.write_text('format = 1\nmodel = "toy_problem:network"\nbudget = "50%flops"\n')
    monkeypatch.setattr(resources, "_in_checkout", lambda _: None)
    monkeypatch.setattr(resources, "_shipped", lambda _: [shipped])
    monkeypatch.setattr(runner, "run_search", lambda *_, **__: SimpleNamespace(summary={}, require_found=lambda: None))
    assert command_line(["experiment", "mine"]) == 0
    assert "The results are in results/mine.json." in capsys.readouterr().out
    assert (folder / "results" / "mine.json").is_file()
    assert [path.name for path in shipped.parent.iterdir()] == ["mine.toml"]


def test_a_folder_without_results_is_one_clear_line(folder, capsys):
    assert command_line(["experiment", "--table", "."]) == 2
    assert "holds no results file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        {"seed": 0, "incumbent": {}},  # the summary of a search
        {"kind": "search", "experiment": "mine.toml", "runs": []},
        {"kind": "comparison", "rows": 3},
        {"kind": "published", "run": {}},
        {"kind": ["search"]},
        [1, 2],
    ],
)
def test_a_file_that_no_experiment_wrote_is_named_in_one_line(folder, capsys, content):
    (folder / "foreign.json").write_text(json.dumps(content))
    assert command_line(["experiment", "--table", "."]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "Cannot read the results file 'foreign.json'" in line
    assert "take it away if no `autoprune experiment` wrote it" in line


@pytest.mark.parametrize("read_only", [False, True])
def test_results_that_cannot_be_written_are_refused_before_anything_is_measured(folder, capsys, monkeypatch, read_only):
    def measured(*_, **__):
        raise AssertionError("it was begun all the same")

    monkeypatch.setattr(runner, "Contest", measured)
    if read_only:
        monkeypatch.setattr(runner.os, "access", lambda *_: False)  # root may write everywhere
    else:
        (folder / "results" / "mine.json").mkdir(parents=True)
    (folder / "mine.toml").write_text(FILE)
    assert command_line(["experiment", "mine.toml"]) == 2
    message = "'results' cannot be written" if read_only else "it is a folder"
    assert f"Cannot write the results to 'results/mine.json': {message}." in capsys.readouterr().err


def test_a_seed_below_zero_is_refused_as_by_a_search(folder, capsys):
    (folder / "mine.toml").write_text(FILE)
    assert command_line(["experiment", "mine.toml", "--seed", "-3"]) == 2
    assert "--seed is -3, but must be at least 0." in capsys.readouterr().err
    assert not list(folder.glob("results/*"))
