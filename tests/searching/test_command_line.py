"""Whole commands on the toy problem: what a person sees, with nothing faked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from autoprune.cli.edge import run

MODEL, DATA = "toy_problem:network", "toy_problem:sets"


def searching(*more):
    """Returns the arguments of a small search; of an option given twice the last one counts."""
    network = ["--model", MODEL, "--data", DATA, "--backend", "serial", "--no-mlflow"]
    return ["search", *network, "--candidates", "4", "--finetune-epochs", "0", "--out", "run", *more]


def test_a_search_ends_with_a_table_and_says_what_comes_next(folder, capsys):
    assert run(searching()) == 0
    shown = capsys.readouterr()
    for text in ("dense", "uniform", "incumbent", "block1.conv1", "run/front.html", 'autoprune.load("run/incumbent")'):
        assert text in shown.out
    assert "autoprune ui" not in shown.out  # nothing of it is in MLflow
    assert "4/4 candidates" in shown.err


def test_json_is_the_summary_and_all_of_stdout(folder, capsys):
    assert run(searching("--json")) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("run/summary.json").read_text())


def test_the_commands_about_a_search_take_its_folder(folder, capsys):
    run(searching())
    assert run(["evaluate", "run"]) == 0
    assert run(["evaluate", "run/incumbent", "--split", "holdout"]) == 0
    assert run(["cost", "toy_problem:network", "--widths", "run/incumbent/structure.json"]) == 0
    assert run(["trace", "toy_problem:network", "--data", "toy_problem:sets", "--verify"]) == 0
    shown = capsys.readouterr().out
    for text in ("test accuracy", "holdout accuracy", "of the dense flops", "equal counted costs: yes", "pca"):
        assert text in shown
    assert run(["search", "--resume", "run"]) == 0


@pytest.fixture
def files(folder):
    """Makes files that are wrong in their own ways."""

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (folder / "run by the pickle",))

    torch.save({"stem.weight": torch.zeros(8, 1, 3, 3)}, "other.pt")
    torch.save({"stem.weight": Hostile()}, "hostile.pt")
    Path("text.pt").write_text("no weights")
    Path("corrupt.toml").write_text('budget = "50%flops"\nseed = = 3\n')
    Path("unknown.toml").write_text("candidats = 3\n")
    Path("file").touch()
    Path("images/train/a").mkdir(parents=True)
    Path("images/val/a").mkdir(parents=True)
    for place in ("train", "val"):
        for index in range(8):
            Path(f"images/{place}/a/{index}.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (searching("--model", "cifar/resnet20-c"), "Unknown model 'cifar/resnet20-c'. Did you mean 'cifar/resnet20-"),
        (searching("--data", "digts"), "Unknown data 'digts'. Did you mean 'digits'?"),
        (searching("--data", "images:"), "'images:' name no folder. Write images:DIR."),
        (searching("--data", "mine:"), "Cannot read the data 'mine:'. Write package.module:factory, or a folder"),
        (searching("--strategy", "unifrom"), "Unknown strategy 'unifrom'. Did you mean 'uniform'?"),
        (searching("--strategy", "toy_problem:broken"), "toy_problem:broken"),
        (searching("--budget", "1%flops"), "remain, most of them in"),
        (searching("--budget", "120%flops"), "at most at 100 %"),
        (searching("--budget", "50%flops", "--budget", "1Mmacs"), "limit the same resource twice"),
        (searching("--workers", "0"), "--workers is 0"),
        (searching("--backend", "ray", "--workers", "5000"), "5000 workers are too many for the 1 cores"),
        (searching("--weights", "nowhere.pt"), "'nowhere.pt' does not exist"),
        (searching("--weights", "other.pt"), "missing: stem.bias, block1.conv1.weight"),
        (searching("--weights", "text.pt"), "text.pt"),
        (searching("--weights", "hostile.pt"), "would run code"),
        (searching("--experiment", "corrupt.toml"), "corrupt.toml is not valid TOML"),
        (searching("--experiment", "unknown.toml"), "Did you mean 'candidates'?"),
        (searching("--model", "toy_problem:broken"), "ValueError: the factory broke"),
        (searching("--model", "toy_problem:not_a_network"), "not a torch.nn.Module"),
        (searching("--model", "toy_problem:three_channels"), "does not take the 1x8x8 images"),
        (searching("--model", "toy_problem:too_few_outputs"), "2 outputs, but toy_problem:sets has 4 classes"),
        (searching("--model", "toy_problem:not_finite"), "not finite"),
        (searching("--model", "toy_problem:stream_only"), "Try --scope coupled"),
        (searching("--data", "toy_problem:broken_data"), "OSError: the disk is on fire"),
        (searching("--data", "imagefolder:images"), "Cannot read the image images/train/a/"),
        (searching("--data", "imagefolder:nowhere"), "'nowhere' does not exist"),
        (searching("--data", "cifar10", "--data-root", "images"), "expected the file images/cifar-10-batches-py"),
        (searching("--holdout-images", "1000"), "Ask for fewer with --holdout-images or --calibration-images."),
        (searching("--device", "cuda:99"), "The device 'cuda:99' cannot be used"),
        (searching("--out", "file"), "is a file"),
        (searching("--out", "file/run"), "lies below"),
        (["search", "--resume", "images"], "holds no search to continue"),
        (["evaluate", "images"], "holds no saved network"),
        (["cost", "toy_problem:network", "--widths", "corrupt.toml"], "Cannot read the widths file"),
        (["trace", "toy_problem:netwrk"], "Did you mean 'network'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_nothing_is_left_behind(files, capsys, arguments, message):
    before = sorted(path.name for path in files.iterdir())
    assert run(arguments) == 2
    shown = capsys.readouterr()
    last = shown.err.splitlines()[-1]
    assert last.startswith("autoprune: error: ")
    assert message in last
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert sorted(path.name for path in files.iterdir()) == before


def test_a_second_search_in_the_same_folder_is_refused_and_loses_nothing(folder, capsys):
    run(searching())
    ledger = Path("run/ledger.jsonl").read_bytes()
    assert run(searching()) == 2
    assert "autoprune search --resume run" in capsys.readouterr().err
    assert Path("run/ledger.jsonl").read_bytes() == ledger


def test_a_search_in_which_every_candidate_fails_exits_2_with_the_reason(folder, capsys, monkeypatch):
    from autoprune.evaluation.evaluator import CandidateEvaluator

    def fail(self, *args, **kwargs):
        raise RuntimeError("out of everything")

    monkeypatch.setattr(CandidateEvaluator, "build", fail)
    assert run(searching()) == 2
    shown = capsys.readouterr()
    assert "No candidate could be evaluated." in shown.err.splitlines()[-1]
    assert "out of everything" in shown.err.splitlines()[-1]
    assert shown.err.endswith("AUTOPRUNE_DEBUG=1 with --backend serial shows where candidates failed.\n")
