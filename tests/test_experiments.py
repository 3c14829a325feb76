"""The figures of the README come from results files, and every experiment file loads."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from autoprune.config.experiment import experiment_kind, load_comparison, load_experiment, load_published
from autoprune.core.budget import Budget
from autoprune.core.cost import Cost
from autoprune.methods.registry import make_method
from autoprune.report.markdown.results import results_table
from autoprune.searching.experiments.comparison import SEARCH
from experiments.benchmarks.aims import AIMS, aims_table, benchmarks_table

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.toml"))
RESULTS = ROOT / "experiments" / "results"
RECORDS = sorted((ROOT / "experiments" / "benchmarks" / "results").glob("*.json"))
#: The line before the table in the README, which is the command that prints it.
MARK = "<!-- autoprune experiment --table experiments/results -->\n"


def results(kind):
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    found = [content for content in contents if content.get("kind", "search") == kind]
    assert found, kind
    return found


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_file_loads(path):
    if experiment_kind(path) == "search":
        assert load_experiment(path)["budgets"]
        return
    if experiment_kind(path) == "published":
        published, tuned, options = load_published(path)
        assert tuned.epochs > 0
        # What is held against a figure removes as much.
        [budget] = [Budget.parse(text) for text in options["budgets"]]
        assert all(item.accuracy < 100 and item.dense < 100 for item in published)
        assert 100 * (1 - budget.limit) >= max(item.removed for item in published)
        return
    compared, options = load_comparison(path)
    assert options["model"]
    assert all(Budget.parse(text) for text in compared.budgets)
    assert all(name == SEARCH or make_method(name).source for name in compared.methods)


def test_the_tables_in_the_readme_are_those_the_results_files_give():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.split(MARK)[1].split("\n<!-- end -->")[0] == results_table(RESULTS)


def test_the_overview_of_experiments_is_what_the_results_files_say():
    overview = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    for name, table in (("aims", aims_table()), ("benchmarks", benchmarks_table())):
        assert overview.split(f"<!-- {name} -->\n")[1].split("\n<!-- end -->")[0] == table


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_record_of_a_benchmark_names_the_program_that_makes_it(path):
    assert json.loads(path.read_text(encoding="utf-8"))["benchmark"] == path.stem
    programs = path.parents[1]
    assert (programs / f"{path.stem}.py").exists() or (programs / path.stem / "__main__.py").exists()


def test_an_aim_that_is_missed_says_why():
    judged = [(aim, aim.judged(json.loads(aim.path.read_text(encoding="utf-8")))) for aim in AIMS]
    missed = [aim for aim, standing in judged if standing.reached is False]
    assert all(aim.left for aim in missed)


def test_the_first_figures_of_the_readme_are_those_of_a_results_file():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    [said] = re.findall(r"with ([\d.]+) % test .*? has ([\d.]+) % without a training step and ([\d.]+) %", readme)
    [run] = json.loads((RESULTS / "cifar10-resnet20-b.json").read_text(encoding="utf-8"))["runs"]
    incumbent = run["incumbent"]
    shares = (run["dense"]["accuracy"], incumbent["accuracy_before_finetune"], incumbent["accuracy"])
    assert [float(text) for text in said] == [round(100 * share, 1) for share in shares]


def test_what_the_readme_says_of_cheap_scores_is_what_was_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("**", "")
    path = ROOT / "experiments" / "benchmarks" / "results" / "proxy_quality.json"
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    found = figures["cifar/resnet20-b"]
    said = re.findall(r"\| ([\d.]+) % \| ([\d.-]+) \(([\d.-]+) to ([\d.-]+)\) \| ([\d.-]+) \|\n", readme)
    names = ("slice 256/1000", "least-squares 256/1000", "sequential 256/1000", "sequential 512/4000", "finetune-0.1")
    rows = {row["name"]: row for row in found["proxies"]}
    taus = [[rows[name][key] for key in ("tau", "low", "high", "tau_better_half")] for name in names]
    shares = [rows[name]["share"] for name in names]
    assert [row[0] for row in said] == [f"{100 * share:.1f}" for share in shares]
    assert [list(row[1:]) for row in said] == [[f"{value:.2f}" for value in row] for row in taus]
    text = " ".join(readme.split())
    assert f"{100 * found['finetune']['lowest']:.1f} to {100 * found['finetune']['highest']:.1f} %" in text
    small = figures["digits/resnet"]
    itself, taus = small["finetune"]["as_score"], [row["tau"] for row in small["proxies"]]
    assert f"with a tau of {itself['tau']:.2f} ({itself['low']:.2f} to {itself['high']:.2f})" in text
    assert f"(taus of {min(taus):.2f} to {max(taus):.2f})" in text
    assert f"within {100 * (small['finetune']['highest'] - small['finetune']['lowest']):.1f} points" in text
    assert small["recommended"] is None


def test_the_readme_says_of_fidelity_what_was_recorded():
    recorded = json.loads((RESULTS.parent / "benchmarks" / "results" / "fidelity.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in recorded["figures"]["networks"].values():
        assert f"{row['tau']:.2f} ({row['low']:.2f} to {row['high']:.2f})" in readme


def test_published_figures_beside_ours_are_those_of_the_experiment_file():
    for content in results("published"):
        published, *_ = load_published(ROOT / "experiments" / content["experiment"])
        assert content["published"] == [asdict(item) for item in published]
        assert content["run"]["finetune_epochs"] == 0
        removed = 100 * (1 - content["run"]["incumbent"]["macs"] / content["run"]["dense"]["macs"])
        assert removed >= max(item.removed for item in published)


def test_every_results_file_belongs_to_an_experiment_file():
    names = {path.name for path in EXPERIMENTS}
    for content in [*results("search"), *results("comparison"), *results("published")]:
        assert content["experiment"] in names


def test_incumbents_keep_at_most_what_their_budget_says():
    for content in results("search"):
        for run in content["runs"]:
            dense = Cost.recorded(run["dense"])
            for text in run["budget"]:
                limit = Budget.parse(text).resolve(dense)
                assert run["incumbent"][limit.resource] <= limit.ceiling


def test_compared_methods_keep_at_most_what_their_budget_says():
    for content in results("comparison"):
        dense = Cost(macs=content["dense"]["macs"], params=content["dense"]["params"])
        assert content["rows"]
        for row in content["rows"]:
            limit = Budget.parse(row["budget"]).resolve(dense)
            assert row[limit.resource] <= limit.ceiling
