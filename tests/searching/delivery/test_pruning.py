import json
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from autoprune.cli.edge import run as command_line
from autoprune.errors import ConfigError, RunError
from autoprune.methods.base import Pruned
from autoprune.methods.reduction import Reduction
from autoprune.models.costing.counting import count
from autoprune.models.cutting.surgery import Kept
from autoprune.models.storage.saved import load
from autoprune.report.observer import NullObserver
from autoprune.searching.delivery.pruning import MethodOptions, prune
from autoprune.searching.inputs.options import SearchOptions
from autoprune.study.lock import FolderLock

NAMED = {"model": "toy_problem:network", "data": "toy_problem:sets"}


def pruned(folder, *, budgeted=True, budgets=("50%flops",), finetune_epochs=0.0, **chosen):
    options = SearchOptions(**NAMED, out=folder / "out", budgets=budgets, finetune_epochs=finetune_epochs)
    return prune(options, MethodOptions(**chosen), NullObserver(), budgeted=budgeted)


@dataclass(frozen=True)
class First:
    """Keeps the first channels of each group: a quarter of them, or as many as the budget allows."""

    source: ClassVar[str] = "test"
    trains: ClassVar[bool] = False

    as_published: bool = False
    share: float = 0.25
    greedy: bool = False

    def prune(self, subject):
        fixed = [max(1, int(self.share * group.width)) for group in subject.network.groups]
        widths = fixed if self.as_published else subject.space.uniform().widths
        if self.greedy:
            widths = subject.space.dense.widths
        clusters = None
        if self.share < 0.5:
            clusters = tuple(np.minimum(np.arange(group.width), width - 1) for group, width in zip(
                subject.network.groups, widths, strict=True
            ))  # fmt: skip
        kept = Kept(tuple(np.arange(width) for width in widths))
        return Pruned(kept, subject.model, clusters, facts={"share": self.share}, fresh_norms=True)


FIRST = f"{__name__}:First"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules[First.__module__])


def test_a_pruned_network_is_within_budget_by_an_independent_count_and_loads(folder):
    summary = pruned(folder, method="uniform")
    model = load(folder / "out" / "incumbent")
    counted = count(model, (1, 1, 8, 8))
    assert counted.macs == summary["incumbent"]["macs"] <= 0.5 * summary["dense"]["macs"]
    assert json.loads((folder / "out" / "summary.json").read_text()) == summary


def test_the_folder_of_another_run_is_left_as_it_is(folder):
    pruned(folder, method="uniform")
    before = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"'.*out' already holds a run\. Name another folder with --out\."):
        pruned(folder, method="l1")
    assert {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()} == before


def test_a_second_driver_in_the_folder_is_refused_before_anything_is_loaded(folder, monkeypatch):
    monkeypatch.setattr(
        "autoprune.searching.delivery.pruning.load_problem", lambda *_: pytest.fail("loaded the network")
    )
    with FolderLock(folder / "out"), pytest.raises(RunError, match=f"process {os.getpid()} on"):
        pruned(folder, method="uniform")
    assert not (folder / "out").exists()


def test_no_training_step_is_taken_unless_asked(folder):
    summary = pruned(folder, method="reconstruction")
    assert summary["incumbent"]["accuracy_before_finetune"] is None
    assert summary["finetune_epochs"] == 0


def test_finetuning_is_tested_before_and_after(folder):
    entry = pruned(folder, method="uniform", finetune_epochs=1.0)["incumbent"]
    assert 0 <= entry["accuracy_before_finetune"] <= 1
    assert 0 <= entry["accuracy"] <= 1


@pytest.mark.parametrize("merge", list(Reduction))
def test_every_merge_cuts_the_same_channels(folder, merge):
    summary = pruned(folder, method=FIRST, merge=merge.value)
    assert summary["method"]["merge"] == merge.value
    assert summary["incumbent"]["widths"] == pruned(folder / "other", method="uniform")["incumbent"]["widths"]


def test_as_published_looks_at_no_budget_and_starts_batch_norms_anew(folder):
    summary = pruned(folder, method=FIRST, as_published=True, budgeted=False, settings={"share": "0.125"})
    assert set(summary["incumbent"]["widths"].values()) == {1}
    assert summary["budget"] == []
    assert summary["method"]["merge"] == "fresh"
    norm = load(folder / "out" / "incumbent").block1.bn1
    assert norm.running_mean.tolist() == [0.0]
    assert norm.weight.tolist() == [1.0]


def test_as_published_and_a_budget_contradict_each_other(folder):
    with pytest.raises(ConfigError, match=r"no budget\. Leave --budget or --as-published out"):
        pruned(folder, method=FIRST, as_published=True)


def test_addition_needs_clusters(folder):
    with pytest.raises(ConfigError, match="Choose another --merge"):
        pruned(folder, method=FIRST, merge="addition", settings={"share": 0.75})


def test_a_method_that_breaks_the_budget_is_told_off(folder):
    with pytest.raises(RunError, match="outside the budget"):
        pruned(folder, method=FIRST, settings={"greedy": True})
    assert not (folder / "out").exists()


def test_no_training_refuses_what_trains(folder):
    with pytest.raises(ConfigError, match="the method 'psap' trains"):
        pruned(folder, method="psap", no_training=True)
    with pytest.raises(ConfigError, match="--finetune-epochs is given"):
        pruned(folder, method="uniform", no_training=True, finetune_epochs=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "eprun"], "Did you mean 'eprune'"),
        (["--merge", "glue"], "Unknown merge 'glue'"),
        (["--option", "beta"], "Write KEY=VALUE"),
        (["--method", "l1", "--option", "beta=1"], "has no option 'beta'"),
        (["--epochs", "nan"], "must be a finite number"),
        (["--budget", "half"], "Cannot read the budget 'half'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(folder, capsys, arguments, message):
    assert command_line(["prune", "--model", NAMED["model"], "--data", NAMED["data"], *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not any("Traceback" in line for line in error)


def test_the_command_prints_a_summary_and_lists_methods(folder, capsys):
    arguments = ["prune", "--method", "l1", "--budget", "60%flops", "--out", "here", "--json"]
    assert command_line([*arguments, "--model", NAMED["model"], "--data", NAMED["data"]]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["method"]["name"] == "l1"
    assert summary["budget"] == ["60%flops"]
    assert command_line(["prune", "--list", "--json"]) == 0
    listed = {item["name"] for item in json.loads(capsys.readouterr().out)}
    assert {"eprune", "ccm", "pca", "acp", "ascp", "psap", "l1", "fpgm"} <= listed
