"""The figures of the README come from results files, and every experiment file loads."""

import importlib.util
from pathlib import Path

import pytest

from autoprune.config.experiment import load_experiment

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.toml"))


def record():
    spec = importlib.util.spec_from_file_location("record", ROOT / "experiments" / "record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_file_loads(path):
    assert load_experiment(path)["budgets"]


def test_the_table_in_the_readme_is_the_one_the_results_files_give():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("<!-- experiments/record.py table -->\n")[1].split("\n<!-- end -->")[0]
    assert shown == record().table()


def test_incumbents_keep_at_most_what_their_budget_says():
    import json

    for path in record().RESULTS.glob("*.json"):
        for run in json.loads(path.read_text(encoding="utf-8"))["runs"]:
            assert run["budget"] == ["50%flops"]
            assert run["incumbent"]["macs"] <= 0.5 * run["dense"]["macs"]
