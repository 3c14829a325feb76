from __future__ import annotations

import errno
import json
import socket
from pathlib import Path

import pytest

from autoprune.cli.edge import run
from autoprune.errors import ModelError
from autoprune.study.ledger import Ledger

TRACE = {
    "groups": [{"name": "conv1", "width": 16, "min_width": 1, "coupled": True, "layers": ["conv1", "conv2"]}],
    "layers": [{"name": "conv1", "macs": 1234567, "params": 432}],
    "frozen": {"fc": "the outputs are the classes"},
    "dense": {"macs": 1234567, "flops": 2469134, "params": 432},
    "heuristics": {"pca": {"conv1": 9}},
    "verified": {"mask_equivalence": 1e-6, "cost_equality": True},
}
COST = {
    "macs": 10,
    "flops": 20,
    "params": 5,
    "retained_flops": 0.5,
    "retained_params": 0.25,
    "widths": {"conv1": 8},
    "layers": [],
}


def test_a_search_passes_only_what_was_given(fake_search):
    assert run(["search", "--budget", "50%flops", "--budget", "1Mparams", "--seed", "0", "--finetune-epochs", "0"]) == 0
    [(name, (options,), _)] = fake_search.calls
    assert name == "run_search"
    given = dict(vars(options))
    assert given.pop("out").parts[0] == "runs"
    assert given == {"budgets": ("50%flops", "1Mparams"), "seed": 0, "finetune_epochs": 0.0}


def test_every_option_of_a_search_arrives(fake_search, tmp_path):
    (tmp_path / "w.pt").touch()
    text = (
        "--front 20..80%flops --model cifar/resnet20-b --weights w.pt --data cifar10 --data-root . --scope internal "
        "--search-space cifar-resnet --strategy random --candidates 7 --time-limit 5m --calibration-images 8 "
        "--holdout-images 9 --backend ray --workers 2 --gpus-per-worker 0.25 --ray-address auto --device cpu --out o "
        "--evaluation-timeout 1h30m --tracking-uri sqlite:///x.db"
    )
    assert run(["search", *text.split()]) == 0
    [(_, (options,), _)] = fake_search.calls
    given = dict(vars(options))
    assert given.pop("search_space").endswith("cifar-resnet.toml")
    assert given == {
        "front": "20..80%flops",
        "budgets": (),
        "model": "cifar/resnet20-b",
        "weights": Path("w.pt"),
        "data": "cifar10",
        "data_root": Path("."),
        "scope": "internal",
        "strategy": "random",
        "candidates": 7,
        "time_limit": 300.0,
        "evaluation_timeout": 5400.0,
        "calibration_images": 8,
        "holdout_images": 9,
        "backend": "ray",
        "workers": 2,
        "gpus_per_worker": 0.25,
        "ray_address": "auto",
        "device": "cpu",
        "out": Path("o"),
        "tracking_uri": "sqlite:///x.db",
    }


def test_a_store_and_none_contradict_each_other_and_the_command_line_wins_over_a_file(fake_search, capsys, tmp_path):
    assert run(["search", "--no-mlflow", "--tracking-uri", "sqlite:///x.db"]) == 2
    assert capsys.readouterr().err == (
        "autoprune: error: --no-mlflow writes nothing to MLflow: leave --tracking-uri out.\n"
    )
    (tmp_path / "e.toml").write_text('tracking_uri = "sqlite:///x.db"\nno_mlflow = true\n')
    for options in ([], ["--no-mlflow"], ["--tracking-uri", "sqlite:///y.db"]):
        assert run(["search", "--experiment", "e.toml", *options]) == 0
    given = [vars(options) for _, (options,), _ in fake_search.calls]
    assert [options.get("no_mlflow") for options in given] == [True, True, None]
    assert given[2]["tracking_uri"] == "sqlite:///y.db"


def test_options_win_over_the_experiment_file(fake_search, tmp_path):
    (tmp_path / "e.toml").write_text('budget = "40%flops"\nseed = 3\n')
    run(["search", "--experiment", "e.toml", "--seed", "4"])
    [(_, (options,), _)] = fake_search.calls
    assert (options.seed, options.budgets) == (4, ("40%flops",))


def test_json_is_all_that_stdout_holds(fake_search, capsys):
    assert run(["search", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == fake_search.summary


def test_away_from_a_terminal_the_result_is_plain(fake_search, capsys):
    run(["search"])
    assert capsys.readouterr().out == "the table\n"
    assert [display.closed for display in fake_search.displays] == [True]


def test_a_search_stopped_by_ctrl_c_exits_130_and_says_how_to_resume(fake_search, capsys):
    fake_search.summary["interrupted"] = True
    assert run(["search"]) == 130
    assert "autoprune search --resume runs/somewhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "autoprune: stopped. "),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "autoprune: error: No space left on device. "),
        (RuntimeError("boom"), 1, "autoprune: internal error: RuntimeError: boom. "),
    ],
)
def test_whatever_stops_a_search_what_was_evaluated_is_named(fake_search, capsys, tmp_path, error, code, line):
    def fail(name, options, *, observer):
        options.out.mkdir()
        (options.out / "ledger.jsonl").write_text('{"event":"told"}\n')
        raise error

    fake_search.call = fail
    assert run(["search", "--out", "o"]) == code
    message = capsys.readouterr().err
    assert message.startswith(line)
    assert message.endswith("continue with: autoprune search --resume o\n")
    assert [display.closed for display in fake_search.displays] == [True]


def test_a_search_that_never_began_offers_nothing_to_resume(fake_search, capsys):
    fake_search.raises = ModelError("No such network.")
    assert run(["search"]) == 2
    assert capsys.readouterr().err == "autoprune: error: No such network.\n"


def test_resume_takes_its_options_from_the_folder(fake_search, capsys, tmp_path, monkeypatch):
    (tmp_path / "o").mkdir()
    options = {"candidates": 33, "time_limit": 90.0, "no_mlflow": True}
    Ledger(tmp_path / "o" / "ledger.jsonl", run={"options": options}).close()
    reads, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: [reads.append(path.name), read_bytes(path)][1])
    assert run(["search", "--resume", "o"]) == 0
    # Once more, under the lock of the folder, where it goes on.
    assert reads == ["ledger.jsonl"]
    assert (fake_search.displays[0].candidates, fake_search.displays[0].time_limit) == (33, 90.0)
    [(name, (resumed,), _)] = fake_search.calls
    assert (name, resumed.out, resumed.candidates) == ("run_search", Path("o"), 33)
    assert run(["search", "--resume", "o", "--seed", "3", "--experiment", "x"]) == 2
    assert "Leave out --seed, --experiment" in capsys.readouterr().err


def test_who_works_for_a_resumed_search_may_change(fake_search, tmp_path):
    (tmp_path / "o").mkdir()
    options = {"workers": 2, "tracking_uri": "sqlite:////elsewhere/m.db"}
    Ledger(tmp_path / "o" / "ledger.jsonl", run={"options": options}).close()
    assert run(["search", "--resume", "o", "--workers", "3", "--time-limit", "5m", "--no-mlflow"]) == 0
    assert run(["search", "--resume", "o", "--tracking-uri", "sqlite:///m.db"]) == 0
    first, second = (options for _, (options,), _ in fake_search.calls)
    assert (first.workers, first.time_limit, first.no_mlflow, first.tracking_uri) == (3, 300.0, True, None)
    assert (second.workers, second.no_mlflow, second.tracking_uri) == (2, False, "sqlite:///m.db")


def test_an_untracked_search_is_tracked_where_a_store_is_named_now(fake_search, tmp_path):
    (tmp_path / "o").mkdir()
    Ledger(tmp_path / "o" / "ledger.jsonl", run={"options": {"no_mlflow": True}}).close()
    assert run(["search", "--resume", "o", "--tracking-uri", "sqlite:///m.db"]) == 0
    [(_, (options,), _)] = fake_search.calls
    assert (options.no_mlflow, options.tracking_uri) == (False, "sqlite:///m.db")


def test_what_was_ended_before_its_ledger_began_is_started_again(capsys, tmp_path):
    (tmp_path / ".lock").touch()
    assert run(["search", "--resume", str(tmp_path)]) == 2
    assert "ended before its first candidate: start it again as before." in capsys.readouterr().err


def test_trace_shows_groups_layers_frozen_and_checks(fake_search, capsys):
    fake_search.report = {**TRACE, "input_shape": [3, 32, 32]}
    assert run(["trace", "cifar/resnet20-b", "--verify"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("dense network: ")
    assert shown.partition("\n")[0].endswith(" 432 parameters, for one image of 3 x 32 x 32")
    for text in ("1,234,567 MACs", "conv1, conv2", "the outputs are the classes", "pca", "1e-06", "counted costs: yes"):
        assert text in shown


@pytest.mark.parametrize(
    "verified", [{"mask_equivalence": 0.3}, {"cost_equality": False}, {"mask_equivalence": float("nan")}]
)
def test_a_trace_that_does_not_hold_exits_1(fake_search, verified):
    fake_search.report = {**TRACE, "verified": verified}
    assert run(["trace", "cifar/resnet20-b", "--verify"]) == 1


def test_a_trace_writes_a_search_space_where_nothing_is_yet(fake_search, capsys, tmp_path):
    fake_search.report = TRACE
    command = ["trace", "mine:make", "--write", "my space.toml", "--multiple-of", "8"]
    assert run(command) == 0
    assert Path("my space.toml").read_text() == "multiple_of = 8\n"
    assert "Wrote 'my space.toml'. Edit it, then search with --search-space 'my space.toml'" in capsys.readouterr().out
    Path("my space.toml").write_text("mine")
    assert run(command) == 2
    assert "'my space.toml' is there already. Name another file, or" in capsys.readouterr().err
    assert Path("my space.toml").read_text() == "mine"
    assert run([*command, "--overwrite"]) == 0
    assert Path("my space.toml").read_text() == "multiple_of = 8\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--multiple-of 8", "about the file of --write"),
        ("--overwrite", "about the file of --write"),
        ("--write a.toml --multiple-of 0", "--multiple-of is 0, but must be at least 1"),
        ("--write a.toml --search-space default", "Leave --search-space out"),
        ("--write nowhere/a.toml", "Cannot write the search space to 'nowhere/a.toml'"),
        ("--write .", "Cannot write the search space to '.'"),
    ],
)
def test_a_search_space_that_cannot_be_written_is_refused_before_the_trace(fake_search, capsys, options, message):
    assert run(["trace", "mine:make", *options.split()]) == 2
    assert message in capsys.readouterr().err
    assert fake_search.calls == []


def test_trace_prints_json(fake_search, capsys):
    fake_search.report = TRACE
    run(["trace", "cifar/resnet20-b", "--json"])
    assert json.loads(capsys.readouterr().out) == TRACE


def test_cost_shows_shares_of_the_dense_network(fake_search, capsys, tmp_path):
    (tmp_path / "w.json").write_text("[8]")
    fake_search.report = COST
    assert run(["cost", "cifar/resnet20-b", "--widths", "w.json"]) == 0
    shown = capsys.readouterr().out
    assert "50.00 % of the dense flops" in shown
    assert "25.00 % of the dense params" in shown


def test_widths_in_a_folder_are_said_to_be_no_file(fake_search, capsys, tmp_path):
    assert run(["cost", "cifar/resnet20-b", "--widths", str(tmp_path)]) == 2
    assert f"The widths file '{tmp_path}' is not a file." in capsys.readouterr().err
    assert run(["cost", "cifar/resnet20-b", "--widths", "nowhere.json"]) == 2
    assert "The widths file 'nowhere.json' does not exist." in capsys.readouterr().err
    assert fake_search.calls == []


def test_cost_shows_counting_conventions_side_by_side(fake_search, capsys, tmp_path):
    (tmp_path / "w.json").write_text("[8]")
    counts = {"conventions": {"conv+fc": 25, "+4/bn": 30}, "dense_conventions": {"conv+fc": 100, "+4/bn": 90}}
    fake_search.report = {**COST, **counts}
    assert run(["cost", "cifar/resnet20-b", "--widths", "w.json", "--convention", "all"]) == 0
    assert fake_search.calls[-1][-1]["convention"] == "all"
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["conv+fc", "25", "100", "75.00"] in rows
    assert ["+4/bn", "30", "90", "66.67"] in rows


@pytest.mark.parametrize("argument", ["run", "run/incumbent"])
def test_evaluate_takes_a_run_folder_or_a_saved_network(fake_search, capsys, tmp_path, argument):
    (tmp_path / "run" / "incumbent").mkdir(parents=True)
    (tmp_path / "run" / "incumbent" / "structure.json").touch()
    fake_search.report = {"accuracy": 0.926, "loss": 0.3, "images": 10000, "macs": 5, "params": 6}
    assert run(["evaluate", argument, "--split", "holdout"]) == 0
    assert fake_search.calls == [
        (
            "evaluate_saved",
            (Path("run/incumbent"),),
            {"data": None, "data_root": None, "task": None, "device": None, "split": "holdout"},
        )
    ]
    assert "holdout accuracy 92.60 % on 10,000 images" in capsys.readouterr().out


def test_version_as_json_names_the_stack(capsys):
    assert run(["version", "--json"]) == 0
    assert {"autoprune", "python", "torch", "ray", "mlflow"} <= set(json.loads(capsys.readouterr().out))


class TestUi:
    @pytest.fixture
    def port(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    @pytest.fixture
    def served(self, monkeypatch):
        started = []
        monkeypatch.setattr("autoprune.cli.commands.serve", lambda *arguments: started.append(arguments))
        return started

    def test_the_store_beside_the_run_is_served_on_this_machine_only(self, tmp_path, served, port, capsys):
        (tmp_path / "run").mkdir()
        (tmp_path / "mlflow.db").touch()
        assert run(["ui", str(tmp_path / "run"), "--port", str(port)]) == 0
        [(command, environment)] = served
        assert command[command.index("--host") + 1] == "127.0.0.1"
        assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path / 'mlflow.db'}"
        assert f"http://127.0.0.1:{port}" in capsys.readouterr().out

    def test_the_recorded_store_and_page_of_the_run_are_opened(self, tmp_path, served, port, capsys):
        store = tmp_path / "elsewhere.db"
        store.touch()
        tracking = {"uri": f"sqlite:///{store}", "experiment_id": "7", "run_id": "abc", "view_id": "v"}
        (tmp_path / "summary.json").write_text(json.dumps({"tracking": tracking}))
        assert run(["ui", str(tmp_path), "--port", str(port)]) == 0
        assert served[0][1]["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{store}"
        assert "experiments/7" in capsys.readouterr().out

    def test_a_taken_port_is_one_clear_line(self, tmp_path, served, capsys):
        (tmp_path / "mlflow.db").touch()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            assert run(["ui", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
        assert "is taken" in capsys.readouterr().err
        assert served == []

    def test_a_server_is_only_named_without_its_secrets(self, served, capsys):
        assert run(["ui", "--tracking-uri", "https://me:secret@host"]) == 0
        shown = capsys.readouterr().out
        assert "secret" not in shown
        assert "host" in shown
        assert served == []


class TestCoverage:
    @pytest.mark.parametrize(("arguments", "message"), [
        ("trace --all torchvison", "Unknown family 'torchvison'. Did you mean 'torchvision'?"),
        ("trace --all torchvision,nothing", "Unknown family 'nothing'."),
        ("trace cifar/resnet8 --all torchvision", "Leave the network 'cifar/resnet8' out."),
        ("trace --all torchvision --verify", "Leave --verify out."),
        ("trace --all torchvision --budget 50%flops", "Leave --budget out."),
        ("trace --out here", "--out is the folder of --all."),
        ("trace", "Which network? Name one"),
    ])  # fmt: skip
    def test_what_makes_no_sense_is_said_before_anything_is_built(self, arguments, message, capsys):
        assert run(arguments.split()) == 2
        assert message in capsys.readouterr().err

    def test_a_family_ends_in_a_table_and_in_1_where_a_network_fails(self, monkeypatch, tmp_path, capsys):
        from autoprune.searching.coverage import covering

        def cover(models, *, tell):
            for model, outcome in zip(models, ("pass", "nothing can be cut"), strict=True):
                tell(covering.Coverage(model, outcome, half=outcome == "pass"))

        monkeypatch.setattr(covering, "cover", cover)
        monkeypatch.setattr(covering, "models_of", lambda family: (f"{family}/a", f"{family}/b"))
        assert run(["trace", "--all", "segmentation,detection", "--out", str(tmp_path / "table")]) == 1
        assert "detection: 1 of 2 networks pass, 1 can reach 50 % of their FLOPs." in capsys.readouterr().out
        page = (tmp_path / "table" / "README.md").read_text(encoding="utf-8")
        assert "## detection" in page
        assert "## segmentation" in page
        assert "| b | 0 | 0.0 % | no | nothing can be cut |" in page


@pytest.mark.parametrize("name", ["run", "run/incumbent", "run/incumbent/../incumbent", "other"])
def test_a_candidate_is_never_saved_over_the_network_of_a_run(capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for folder, file in (("run", "ledger.jsonl"), ("other", "training.json")):
        Path(folder, "incumbent").mkdir(parents=True)
        Path(folder, file).touch()
    assert run(["pick", "run", "--id", "0", "--out", name]) == 2
    assert capsys.readouterr().err == f"autoprune: error: '{name}' belongs to a run. Name another folder with --out.\n"
