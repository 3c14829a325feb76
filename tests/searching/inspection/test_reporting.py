from __future__ import annotations

import json
import shutil

import pytest

from autoprune.cli.edge import run
from autoprune.errors import ConfigError, RunError


@pytest.fixture(scope="module")
def module_run(tmp_path_factory):
    """Returns the folder of one search that all tests copy: the search is the slow part."""
    from autoprune.report.observer import NullObserver
    from autoprune.searching.inputs.options import SearchOptions
    from autoprune.searching.search.api import run_search

    folder = tmp_path_factory.mktemp("searched")
    options = SearchOptions(
        model="toy_problem:network",
        data="toy_problem:sets",
        candidates=6,
        finetune_epochs=0.0,
        backend="serial",
        no_mlflow=True,
        out=folder / "run",
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for place in ("preparation", "workers"):
            patched.setattr(f"autoprune.searching.search.{place}.usable_cores", lambda: 1)
        run_search(options, observer=NullObserver())
    return folder / "run"


@pytest.fixture
def searched(module_run, folder):
    shutil.copytree(module_run, folder / "run")
    return folder / "run"


def reported(folder, **options):
    from autoprune.report.observer import NullObserver
    from autoprune.searching.inspection.reporting import write_report

    return write_report(folder, NullObserver(), **options)


def test_the_report_of_a_search_says_what_its_files_say(searched):
    numbers = reported(searched)
    summary = json.loads((searched / "summary.json").read_text())
    assert (searched / "report.html").read_text().count("<h2>") >= 7
    assert numbers["hypervolume"] == pytest.approx(numbers["progress"][-1]["hypervolume"])
    assert numbers["progress"][-1]["incumbent"] == summary["incumbent"]["id"]
    assert numbers["progress"][-1]["candidates"] == 6
    front = [line.split(",")[0] for line in (searched / "front.csv").read_text().splitlines()[1:]]
    assert sorted(numbers["front"]) == sorted(map(int, front))


def test_the_costs_of_layers_add_up_to_those_of_the_networks(searched):
    numbers = reported(searched)
    networks = {row["name"]: row["macs"] for row in numbers["networks"]}
    for key, name in (("dense", "dense"), ("uniform", "uniform"), ("pruned", "incumbent")):
        assert sum(layer[key] for layer in numbers["layers"]) == networks[name]


def test_the_pictures_lie_beside_the_page(searched, folder):
    reported(searched)
    names = {path.name for path in (searched / "report").iterdir()}
    assert {"front.svg", "progress.svg", "widths.svg"} <= names
    reported(searched, out=folder / "elsewhere" / "mine.html")
    assert {path.name for path in (folder / "elsewhere" / "mine").iterdir()} == names


def test_latency_of_a_dense_network_that_is_not_found_leaves_its_column_out(searched, monkeypatch):
    from autoprune.searching.latency.timing import Effort

    monkeypatch.setattr("autoprune.searching.latency.forward.EFFORT", Effort(1, 2, 2))
    # What the factory builds now is not what was searched.
    path = searched / "incumbent" / "structure.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "dense": {**saved["dense"], "fingerprint": "another"}}))
    numbers = reported(searched, latency=True)
    assert [row["batch"] for row in numbers["latency"]["rows"] if row["device"] == "cpu"] == [1, 32]
    assert {row["dense"] for row in numbers["latency"]["rows"]} == {None}
    assert all(row["pruned"] > 0 for row in numbers["latency"]["rows"])
    assert numbers["latency"]["threads"] >= 1
    assert any("dense network was not found" in note for note in numbers["notes"])
    assert "<th>dense</th>" not in (searched / "report.html").read_text().split("Measured latency")[1]


def test_latency_of_a_dense_network_that_a_factory_builds_again_stands_beside(searched, monkeypatch):
    from autoprune.searching.latency.timing import Effort

    monkeypatch.setattr("autoprune.searching.latency.forward.EFFORT", Effort(1, 2, 2))
    numbers = reported(searched, latency=True)
    assert all(row["dense"] > 0 and row["pruned"] > 0 for row in numbers["latency"]["rows"])
    assert not any("dense network was not found" in note for note in numbers["notes"])


def test_dense_and_pruned_take_turns():
    import torch

    from autoprune.searching.latency.forward import measure_latency
    from autoprune.searching.latency.timing import Effort

    turns = []

    class Network(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            turns.append((self.name, tuple(x.shape)))
            return x

    networks = {name: Network(name) for name in ("pruned", "dense")}
    found = measure_latency(networks, (1, 2, 2), batches=(1, 3), effort=Effort(1, 4, 4))
    on_cpu = [row for row in found["rows"] if row["device"] == "cpu"]
    for batch, start in ((1, 0), (3, 10)):
        for first in range(start, start + 10, 2):
            assert sorted(turns[first : first + 2]) == [(name, (batch, 1, 2, 2)) for name in ("dense", "pruned")]
    assert [row["repeats"] for row in on_cpu] == [4, 4]
    assert all(row["speedup"] == row["dense"] / row["pruned"] for row in on_cpu)


def test_a_network_that_cannot_be_built_leaves_its_layers_out(searched):
    structure = searched / "incumbent" / "structure.json"
    content = json.loads(structure.read_text())
    structure.write_text(json.dumps({**content, "model": None}))
    numbers = reported(searched)
    assert numbers["layers"] == []
    assert any("What each layer costs is left out" in note for note in numbers["notes"])


def test_a_pruned_network_has_a_report_without_candidates(searched):
    (searched / "ledger.jsonl").unlink()
    summary = json.loads((searched / "summary.json").read_text())
    del summary["uniform"]
    summary["method"] = {"name": "pca", "source": "somebody"}
    (searched / "summary.json").write_text(json.dumps(summary))
    numbers = reported(searched)
    assert numbers["kind"] == "prune"
    assert numbers["strategies"] == []
    assert not (searched / "report" / "front.svg").exists()
    assert (searched / "report" / "widths.svg").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: {**content, "groups": 5}, "does not fit together"),
        (lambda content: {**content, "incumbent": [1]}, "does not fit together"),
        (lambda content: [content], "holds no JSON object"),
    ],
)
def test_a_summary_of_another_hand_is_one_clear_line(searched, change, message):
    content = json.loads((searched / "summary.json").read_text())
    (searched / "summary.json").write_text(json.dumps(change(content)))
    with pytest.raises(RunError, match=message):
        reported(searched)
    assert not (searched / "report.html").exists()


def test_a_search_without_a_summary_is_told_to_go_on(searched):
    (searched / "summary.json").unlink()
    with pytest.raises(RunError, match="--resume"):
        reported(searched)


@pytest.mark.parametrize("out", ["page", "page.txt"])
def test_a_page_ends_in_html(searched, folder, out):
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        reported(searched, out=folder / out)


def test_a_comparison_is_one_page_and_one_table(searched, folder, capsys):
    shutil.copytree(searched, folder / "other")
    assert run(["compare", "run", "other"]) == 0
    said = capsys.readouterr().out
    assert "2 runs" in said
    assert "toy_problem:network" in said
    assert (folder / "compare.html").is_file()
    assert run(["compare", "run", "other", "--out", "mine.html", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in found["runs"]] == ["run", "other"]
    assert found["runs"][0]["front"] == found["runs"][1]["front"]
    assert (folder / "mine.html").is_file()


def test_the_command_prints_the_numbers_or_where_the_page_is(searched, capsys):
    assert run(["report", "run"]) == 0
    assert "The report is in run/report.html" in capsys.readouterr().out
    assert run(["report", "run", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["candidates"] == 6
    assert numbers["page"] == "run/report.html"


def other_seed(searched, folder, name="other", seed=1):
    """Copies a run as one of another seed, whose accuracies are all a little higher."""
    shutil.copytree(searched, folder / name)
    summary = json.loads((folder / name / "summary.json").read_text())
    summary["seed"] = seed
    for network in ("uniform", "incumbent"):
        for key in ("accuracy", "holdout_accuracy"):
            summary[network][key] = min(1.0, summary[network][key] + 0.01)
    (folder / name / "summary.json").write_text(json.dumps(summary))


def test_other_seeds_are_error_bars_in_the_report_and_in_the_page_of_the_front(searched, folder, capsys):
    before = (searched / "front.html").read_text()
    other_seed(searched, folder)
    assert run(["report", "run", "--repeat", "other"]) == 0
    assert "2 seeds" in capsys.readouterr().out
    page = (searched / "front.html").read_text()
    assert '"times","low","high"' in page
    assert '"times"' not in before
    assert "<h2>Over seeds</h2>" in (searched / "report.html").read_text()
    assert run(["compare", "run", "other", "--json"]) == 0
    [group] = json.loads(capsys.readouterr().out)["over_seeds"]
    assert group["seeds"] == [0, 1]
    assert run(["compare", "run", "other"]) == 0
    assert "toy_problem:sets, 50%flops: 2 seeds" in capsys.readouterr().out


def test_a_search_goes_to_optuna_and_to_tensorboard(searched, folder, capsys):
    import optuna

    assert run(["report", "run", "--optuna", "studies.log", "--tensorboard", "logs"]) == 0
    said = capsys.readouterr().out
    assert "optuna-dashboard studies.log" in said
    assert "tensorboard --logdir logs" in said
    journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("studies.log"))
    assert len(optuna.load_study(study_name="run", storage=journal).trials) == 6
    assert (folder / "logs" / "run").is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--out", "file/report.html"], "file"),
        (["--optuna", "file/studies.log"], "file/studies.log"),
        (["--tensorboard", "file"], "file/run"),
    ],
)
def test_a_report_that_fails_adds_the_search_to_no_dashboard_so_that_it_can_be_asked_for_again(
    searched, folder, capsys, change, message
):
    (folder / "file").touch()
    command = ["report", "run", "--optuna", "studies.log", "--tensorboard", "logs"]
    assert run([*command, *change]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "logs" / "run").exists()
    assert not (folder / "studies.log").exists()
    assert run(command) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "run", "--repeat", "nowhere"], "holds no run"),
        (["report", "run", "--repeat", "run"], "has the seed 0 of another run"),
        (["report", "run", "--optuna", "run"], "Is a directory"),
        (["report", "run", "--tensorboard", "run/.."], "is there already"),
        (["report", "nowhere"], "holds no run"),
        (["report", "run", "--out", "run"], "is a folder"),
        (["report", "run/incumbent", "--latency"], "holds no run"),
        (["compare", "run"], "two runs or more"),
        (["compare", "run", "nowhere"], "holds no run"),
    ],
)
def test_bad_input_is_one_line(searched, capsys, arguments, message):
    assert run(arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
