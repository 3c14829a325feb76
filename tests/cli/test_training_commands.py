from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from autoprune.cli.edge import run
from autoprune.errors import DivergenceError

REPORT = {
    "kind": "train",
    "model": "digits/resnet",
    "data": "digits",
    "folder": "runs/x",
    "epochs": 2,
    "history": [
        {"epoch": 1, "learning_rate": 0.1, "train_loss": 1.5, "holdout_accuracy": 0.5},
        {"epoch": 2, "learning_rate": 0.01, "train_loss": 0.5, "holdout_accuracy": 0.75},
    ],
    "best": {"epoch": 2, "holdout_accuracy": 0.75},
    "holdout_accuracy": 0.75,
    "accuracy": 0.7,
    "accuracy_before": None,
}


class Quiet:
    def __init__(self, *, candidates, time_limit):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Stands for the trainings: `calls` are the options they were given; `raises` is raised, `report` returned."""
    fake = types.SimpleNamespace(calls=[], raises=None, report=dict(REPORT))

    def work(options, observer):
        fake.calls.append(options)
        if fake.raises is not None:
            raise fake.raises
        return fake.report

    for name, attribute in (("training", "train_network"), ("finetuning", "finetune")):
        module = types.ModuleType(name)
        setattr(module, attribute, work)
        monkeypatch.setitem(sys.modules, f"autoprune.searching.trainings.{name}", module)
    monkeypatch.setattr("autoprune.report.screens.live.LiveProgress", Quiet)
    monkeypatch.setattr("autoprune.cli.quiet.hush_libraries", lambda: None)
    for variable in ("AUTOPRUNE_DEBUG", "AUTOPRUNE_DATA_ROOT", "AUTOPRUNE_WEIGHTS_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def saved(tmp_path):
    (tmp_path / "runs/first/incumbent").mkdir(parents=True)
    (tmp_path / "runs/first/incumbent/structure.json").write_text("{}")
    return Path("runs/first")


def record(folder, kind, **options):
    Path(folder).mkdir(parents=True, exist_ok=True)
    content = {"format": 1, "kind": kind, "options": {"epochs": 5, "out": "/elsewhere", **options}}
    (Path(folder) / "training.json").write_text(json.dumps(content))


def test_a_training_passes_on_what_was_given_and_leaves_the_rest_alone(fake, capsys):
    assert run(["train", "--epochs", "3", "--learning-rate", "0.2", "--regulariser", "ccm", "--seed", "4"]) == 0
    (options,) = fake.calls
    assert (options.model, options.epochs, options.learning_rate, options.seed) == ("digits/resnet", 3, 0.2, 4)
    assert (options.regulariser, options.regulariser_strength, options.batch_size) == ("ccm", None, None)
    assert options.out.parent == Path("runs")
    printed = capsys.readouterr().out
    assert "test accuracy 70.00 % after 2 epochs" in printed
    assert "hold-out 75.00 %" in printed
    assert "autoprune search --model digits/resnet --weights runs/x/weights.safetensors" in printed


def test_json_is_the_report_and_nothing_else(fake, capsys):
    assert run(["train", "--epochs", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == REPORT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give --epochs"),
        (["--epochs", "0"], "--epochs is 0, but must be above 0"),
        (["--epochs", "nan"], "--epochs is nan, but must be above 0"),
        (["--epochs", "2", "--learning-rate", "-1"], "--learning-rate is -1, but must be above 0"),
        (["--epochs", "2", "--batch-size", "0"], "--batch-size is 0, but must be at least 1"),
        (["--epochs", "2", "--checkpoint-steps", "0"], "--checkpoint-steps is 0, but must be at least 1"),
        (["--epochs", "2", "--label-smoothing", "1"], r"--label-smoothing is 1, but must be in [0, 1)"),
        (["--epochs", "2", "--precision", "float16"], "Unknown --precision 'float16'. Did you mean 'float32'?"),
        (["--epochs", "2", "--weights", "nowhere.pt"], "'nowhere.pt' does not exist"),
        (["--epochs", "2", "--teacher", "nowhere.pt"], "'nowhere.pt' does not exist"),
        (["--epochs", "2", "--teacher-model", "cifar/vgg16"], "says whose weights --teacher names"),
        (["--epochs", "2", "--teacher", "taken", "--teacher-model", "cifar/vgg16"], "leave --teacher-model out"),
        (["--epochs", "2", "--regulariser-strength", "1"], "Name it with --regulariser"),
        (["--epochs", "2", "--model", "resnet"], "Cannot read the model 'resnet'"),
        (["--epochs", "2", "--out", "taken"], "already holds a training. Continue it with `autoprune train --resume"),
        (["--resume", "empty"], "training.json is missing"),
        (["--resume", "taken", "--epochs", "3"], "Leave out --epochs"),
        (["--resume", "taken", "--seed", "3"], "Leave out --seed"),
        (["--resume", "tuned"], "Continue with: autoprune finetune --resume tuned"),
    ],
)
def test_what_cannot_be_trained_is_one_line(fake, capsys, arguments, message):
    record("taken", "train", model="digits/resnet")
    record("tuned", "finetune", source="net")
    assert run(["train", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert fake.calls == []


def test_a_resumed_training_has_the_options_of_its_folder(fake):
    record("moved", "train", model="cifar/resnet8", weights="/w.pt", learning_rate=0.3)
    assert run(["train", "--resume", "moved", "--device", "cpu", "--no-mlflow"]) == 0
    (options,) = fake.calls
    assert (options.model, options.weights, options.learning_rate) == ("cifar/resnet8", Path("/w.pt"), 0.3)
    assert (options.out, options.device, options.no_mlflow) == (Path("moved"), "cpu", True)


@pytest.mark.parametrize("kept", [{}, {"precision": "float32"}])
def test_a_resumed_training_keeps_the_precision_that_was_asked_for(fake, kept):
    record("begun", "train", model="digits/resnet", **kept)
    assert run(["train", "--resume", "begun"]) == 0
    assert fake.calls[0].precision == kept.get("precision", "auto")


def test_a_divergence_is_one_line_and_exit_code_2(fake, capsys):
    fake.raises = DivergenceError("Training diverged: the loss is nan. The last good checkpoint is x.pt.")
    assert run(["train", "--epochs", "2"]) == 2
    assert capsys.readouterr().err == f"autoprune: error: {fake.raises}\n"


def test_ctrl_c_says_how_to_go_on(fake, capsys):
    fake.raises = KeyboardInterrupt()
    fake.raises.add_note("Continue with: autoprune train --resume runs/x")
    assert run(["train", "--epochs", "2"]) == 130
    assert capsys.readouterr().err == "autoprune: stopped. Continue with: autoprune train --resume runs/x\n"


def test_finetuning_takes_the_incumbent_of_a_run_and_saves_beside_it(fake, saved, capsys):
    fake.report.update(kind="finetune", accuracy_before=0.6, folder="runs/first/incumbent-finetuned")
    assert run(["finetune", str(saved), "--epochs", "2", "--no-distillation"]) == 0
    (options,) = fake.calls
    assert (options.source, options.no_distillation) == (saved / "incumbent", True)
    assert options.out == saved / "incumbent-finetuned"
    printed = capsys.readouterr().out
    assert "test accuracy 60.00 % before" in printed
    assert 'autoprune.load("runs/first/incumbent-finetuned")' in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name the folder of a saved network"),
        (["runs/first", "--resume", "tuned"], "Name the folder of a saved network"),
        (["nowhere", "--epochs", "1"], "'nowhere' holds no saved network"),
        (["runs/first"], "Give --epochs"),
        (["runs/first", "--epochs", "1", "--weights", "nowhere.pt"], "'nowhere.pt' does not exist"),
        (
            ["runs/first", "--epochs", "1", "--weights", "dense.pt", "--no-distillation"],
            "--weights and --no-distillation are different wishes of who teaches",
        ),
        (["runs/first", "--epochs", "1", "--out", "runs/first/incumbent"], "is the network that is finetuned"),
        (["runs/first", "--epochs", "1", "--out", "tuned"], "autoprune finetune --resume tuned"),
        (["--resume", "tuned", "--learning-rate", "1"], "Leave out --learning-rate"),
    ],
)
def test_what_cannot_be_finetuned_is_one_line(fake, saved, capsys, arguments, message):
    Path("dense.pt").touch()
    record("tuned", "finetune", source="net")
    assert run(["finetune", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert fake.calls == []


def test_a_resumed_finetuning_has_the_options_of_its_folder(fake):
    record("tuned", "finetune", source="/net", weights="/dense.pt", no_distillation=False)
    assert run(["finetune", "--resume", "tuned"]) == 0
    (options,) = fake.calls
    assert (options.source, options.weights, options.out) == (Path("/net"), Path("/dense.pt"), Path("tuned"))


def test_a_saved_network_in_the_working_directory_is_finetuned_beside_it(fake, monkeypatch, saved, tmp_path):
    monkeypatch.chdir(saved / "incumbent")
    assert run(["finetune", ".", "--epochs", "1"]) == 0
    assert fake.calls[0].out == tmp_path / "runs/first/incumbent-finetuned"


def test_a_long_training_is_shown_by_its_first_and_last_epochs(fake, capsys):
    row = REPORT["history"][0]
    fake.report["history"] = [{**row, "epoch": epoch} for epoch in range(1, 201)]
    assert run(["train", "--epochs", "200"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("1.5000") == 12
    assert " 200 " in printed
