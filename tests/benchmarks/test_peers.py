"""The comparison with peers: it runs without them, goes on where it stopped, and its README table is what it prints."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoprune.core.structure import Structure
from autoprune.models.cutting.surgery import cut, random_kept
from autoprune.models.tracing.tracer import trace
from autoprune.models.zoo.families.cifar_resnet import CifarResNet
from experiments.benchmarks.peers import __main__ as command
from experiments.benchmarks.peers import contestants
from experiments.benchmarks.peers.arena import Arena
from experiments.benchmarks.peers.figures import figures_of, interval, mean_curve, standings
from experiments.benchmarks.peers.pages import short_table
from experiments.benchmarks.peers.plan import PLAN, load_plan, tasks_of
from experiments.benchmarks.peers.records import packed, read_records, unpacked

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "benchmarks" / "results"
#: The line before the table in the README, which is the command that prints it.
MARK = "<!-- python -m experiments.benchmarks.peers --table -->\n"

TOY = """
[[network]]
name = "toy"
model = "tests.searching.toy_problem:network"
data = "tests.searching.toy_problem:sets"
budgets = ["60%flops"]
train_epochs = 3
calibration = 32
holdout = 32
finetune_epochs = 0.5

[network.methods]
auto = { evaluations = 6, seeds = 2 }
uniform = { seeds = 2 }
optuna = { evaluations = 6, seeds = 1 }
fastnas = { evaluations = 6, seeds = 1 }
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the folder of a benchmark that ran without the peers, and what it said."""
    folder = tmp_path_factory.mktemp("peers")
    (folder / "plan.toml").write_text(TOY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(contestants, "find_spec", lambda name: None)
        patch.setattr(command, "_say", said.append)
        assert command.main(arguments(folder)) == 0
    return folder, said


def arguments(folder, *more):
    return [str(folder / "plan.toml"), "--out", str(folder / "out"), "--results", str(folder / "results"), *more]


def figures(folder):
    return json.loads((folder / "results" / "peers.json").read_text(encoding="utf-8"))


def test_an_absent_peer_is_left_out_with_a_line_that_says_what_to_install(finished):
    folder, said = finished
    assert "FastNAS is left out: modelopt is missing. pip install 'autoprune[peers]'" in said
    assert not list((folder / "out").glob("*fastnas*"))


def test_every_present_method_has_a_record_and_a_row(finished):
    folder, _ = finished
    assert len(read_records(folder / "out")) == 5
    rows = figures(folder)["networks"][0]["budgets"]["60%flops"]
    assert {name: row["seeds"] for name, row in rows.items()} == {"auto": [0, 1], "optuna": [0], "uniform": [0, 1]}
    assert all("failed" not in row for row in rows.values())


def test_networks_hold_their_budget_and_no_search_scores_more_than_it_may(finished):
    folder, _ = finished
    for record in read_records(folder / "out"):
        assert record["slice"]["kept"] <= 0.6
        assert record["cut"]["kept"] <= 0.6
        # A candidate of autoprune may climb a second rung, which is a scoring of its own.
        assert 1 <= record["scorings"] <= 2 * record["evaluations"]
        assert [step[0] for step in record["curve"]] == sorted({step[0] for step in record["curve"]})


def test_a_benchmark_that_was_stopped_goes_on_and_ends_the_same(finished, monkeypatch):
    folder, _ = finished
    before = figures(folder)["networks"]
    path = next((folder / "out").glob("*uniform*seed1*"))
    kept = {other: other.stat().st_mtime_ns for other in (folder / "out").glob("*.json") if other != path}
    path.unlink()
    said = []
    monkeypatch.setattr(contestants, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "_say", said.append)
    assert command.main(arguments(folder)) == 0
    assert sum(line.startswith("toy 60%flops") for line in said) == 1
    assert all(other.stat().st_mtime_ns == time for other, time in kept.items())
    after = figures(folder)["networks"]
    for rows in (before[0]["budgets"]["60%flops"], after[0]["budgets"]["60%flops"]):
        rows["uniform"].pop("seconds")
        rows["uniform"].pop("curve")
    assert before == after


def test_the_plan_says_how_long_it_will_take_and_runs_nothing(finished, monkeypatch):
    folder, _ = finished
    said = []
    monkeypatch.setattr(contestants, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "_say", said.append)
    next((folder / "out").glob("*optuna*")).rename(folder / "kept")
    assert command.main(arguments(folder, "--plan")) == 0
    (folder / "kept").rename(folder / "out" / "toy--60-flops--optuna--seed0.json")
    assert any("Optuna: 1 records of 6 evaluations" in line for line in said)
    assert said[-1].startswith("In all about")


def test_the_picture_is_drawn(finished):
    folder, _ = finished
    text = (folder / "results" / "peers.svg").read_text(encoding="utf-8")
    assert "autoprune" in text
    assert "seconds of the processor" in text


def record(method, hits, *, seed=0, **changes):
    part = {"kept": 0.5, "hits": packed(hits), "tuned": packed(hits)}
    common = {"network": "digits/resnet", "budget": "50%flops", "method": method, "seed": seed, "images": len(hits)}
    rest = {"scorings": 3, "seconds": 1.0, "curve": [[1, 0.5, 0.5]], "dense": packed(np.ones(len(hits), dtype=bool))}
    return {**common, **rest, "slice": part, "cut": part, **changes}


def test_a_peers_win_is_printed_as_a_loss():
    right, wrong = np.ones(200, dtype=bool), np.zeros(200, dtype=bool)
    even = np.arange(200) % 2 == 0
    records = [record("auto", even), record("fastnas", right), record("random", wrong), record("uniform", even)]
    found = figures_of(load_plan(PLAN), records)
    leads = {name: row["cut"].get("lead") for name, row in found[0]["budgets"]["50%flops"].items()}
    assert leads["fastnas"]["points"] == -0.5
    assert {name: lead and lead["verdict"] for name, lead in leads.items()} == {
        "auto": None,
        "fastnas": "loss",
        "random": "win",
        "uniform": "tie",
    }
    assert standings(found)["cut"] == {"win": 1, "tie": 1, "loss": 1}
    assert "-50.0" in short_table(found)


def test_a_method_that_failed_is_shown_as_failed():
    hits = np.ones(20, dtype=bool)
    failed = {"network": "digits/resnet", "budget": "50%flops", "method": "fastnas", "seed": 0, "failed": "ValueError"}
    assert "failed" in short_table(figures_of(load_plan(PLAN), [record("auto", hits), failed]))


def test_hits_survive_packing():
    hits = np.random.default_rng(0).random(37) < 0.5
    assert (unpacked(packed(hits), 37) == hits).all()


def test_the_interval_of_a_mean_covers_it_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(40):
        low, high = interval((rng.random((1, 200)) < 0.8).astype(float))
        covered += low <= 0.8 <= high
    assert 34 <= covered <= 40


def test_a_mean_curve_begins_where_the_last_of_them_begins():
    curves = [[[1, 1.0, 0.2], [4, 4.0, 0.6]], [[2, 2.0, 0.4]]]
    assert mean_curve(curves) == [[2, 1.5, pytest.approx(0.3)], [4, 3.0, pytest.approx(0.5)]]


def test_the_plan_names_known_methods_and_each_record_once():
    tasks = list(tasks_of(load_plan(PLAN)))
    assert {task.method for task in tasks} <= set(contestants.CONTESTANTS)
    assert len({task.file_name for task in tasks}) == len(tasks)


@pytest.mark.parametrize(
    ("written", "instead", "message"),
    [
        ("calibration", "calibratoin", r"unknown key 'calibratoin'. Did you mean 'calibration'"),
        ("evaluations = 6, seeds = 2", "evaluations = 0", r"'toy', auto: evaluations is 0. Write a whole number"),
        ("uniform =", "unifrom =", r"Unknown method 'unifrom' in the plan. Did you mean 'uniform'"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(written, instead, message, tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(TOY.replace(written, instead), encoding="utf-8")
    assert command.main(arguments(tmp_path)) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.skipif(not (RESULTS / "peers.json").is_file(), reason="the benchmark has not been recorded")
def test_the_table_in_the_readme_is_what_the_command_prints(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert command.main(["--table"]) == 0
    assert readme.split(MARK)[1].split("\n<!-- end -->")[0] + "\n" == capsys.readouterr().out


@pytest.mark.parametrize("option", ["a", "b"])
def test_widths_inside_blocks_are_read_off_a_peers_network_whatever_its_shortcuts(option):
    rng = np.random.default_rng(0)
    dense = CifarResNet(blocks=2, option=option, classes=10).eval()
    network = trace(dense, torch.zeros(1, 3, 32, 32))
    arena = SimpleNamespace(whole=SimpleNamespace(network=network), dense=dense)
    inner = tuple(group.width if group.coupled else group.width // 2 for group in network.groups)
    assert inner != tuple(group.width for group in network.groups)
    for widths, expressed in ((inner, True), (tuple(group.width // 2 for group in network.groups), option == "b")):
        structure = Structure(widths)
        found = Arena.widths_of(arena, cut(dense, network, random_kept(network, structure, rng)), counted=False)
        assert found == (structure if expressed else None)
