from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch
import typer

from autoprune.cli import main
from autoprune.cli.edge import BUG, guarded, run
from autoprune.errors import BudgetError, DataError


def raising(error):
    def command():
        raise error

    return command


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch):
    monkeypatch.delenv("AUTOPRUNE_DEBUG", raising=False)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BudgetError("Too small."), 2, "autoprune: error: Too small.\n"),
        (DataError("First\n  second."), 2, "autoprune: error: First second.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/ledger.jsonl"),
            2,
            "autoprune: error: No space left on device: 'runs/ledger.jsonl'.\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), 2, "autoprune: error: Permission denied.\n"),
        (OSError("odd"), 2, "autoprune: error: odd.\n"),
        (
            ZeroDivisionError("by zero"),
            1,
            "autoprune: internal error: ZeroDivisionError: by zero. Set AUTOPRUNE_DEBUG=1 to see where.\n",
        ),
        (
            NotImplementedError("No kernel.\n" + "CPU: registered " * 1000),
            1,
            f"autoprune: internal error: NotImplementedError: No kernel. {'CPU: registered ' * 18}... "
            "Set AUTOPRUNE_DEBUG=1 to see where.\n",
        ),
        (KeyboardInterrupt(), 130, "autoprune: stopped.\n"),
        (
            SystemExit(3),
            2,
            "autoprune: error: Code that is not autoprune's ended the process (SystemExit: 3). Let it raise instead.\n",
        ),
    ],
)
def test_whatever_is_raised_becomes_one_line_and_an_exit_code(capsys, error, code, line):
    assert guarded(raising(error)) == code
    captured = capsys.readouterr()
    assert captured.err == line
    assert captured.out == ""


def test_sigterm_stops_a_command_as_ctrl_c_does_and_is_as_before_afterwards(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert before is signal.SIG_DFL

    def command():
        if signal.getsignal(signal.SIGTERM) is not before:  # else the test itself would die
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    assert guarded(command) == 130
    assert capsys.readouterr().err == "autoprune: stopped.\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_sigterm_that_is_ignored_or_handled_already_stays_so():
    for handler in (signal.SIG_IGN, lambda *_: None):
        before = signal.signal(signal.SIGTERM, handler)
        try:
            assert guarded(lambda: os.kill(os.getpid(), signal.SIGTERM) or 0) == 0
        finally:
            signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), "OutOfMemoryError: CUDA out of memory"),
        (RuntimeError("can't allocate memory: you tried 9 TB"), "RuntimeError: can't allocate memory: you tried 9 TB"),
    ],
)
def test_memory_that_runs_out_is_no_bug_and_says_what_takes_less(capsys, error, reason):
    assert guarded(raising(error)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"autoprune: error: The memory did not suffice ({reason}). Take fewer")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["search", "--out", ""], "after --out"),
        (["search", "--out="], "of --out"),
        (["search", "--weights", " ", "--seed", "3"], "after --weights"),
        (["evaluate", ""], "after evaluate"),
        ([""], "after autoprune"),
    ],
)
def test_an_empty_value_is_not_taken_for_the_working_directory(capsys, arguments, place):
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert said == f"autoprune: error: The value {place} is empty. Is a variable of the shell not set?\n"


def test_notes_say_how_to_go_on(capsys):
    error = DataError("Unreadable.")
    error.add_note("Resume like this.")
    guarded(raising(error))
    assert capsys.readouterr().err == "autoprune: error: Unreadable. Resume like this.\n"


def test_debugging_shows_the_traceback_and_keeps_the_exit_code(capsys, monkeypatch):
    monkeypatch.setenv("AUTOPRUNE_DEBUG", "1")
    assert guarded(raising(BudgetError("Too small."))) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch"], "'search'? Try `autoprune --help`."),
        (["search", "--budgett", "50%flops"], "Unknown option '--budgett'. Did you mean '--budget'?"),
        (["search", "--wokers=2"], "Did you mean '--workers'?"),
        (["PRUNE"], "Unknown command 'PRUNE'. Did you mean 'prune'?"),
        (["train", "--budget", "50%flops"], "'--budget'. `autoprune search` and `autoprune prune` have it. Try"),
        (["prune", "--evaluation-timeout", "5m"], "Unknown option '--evaluation-timeout'. `autoprune search` has it."),
        (["search", "--quantise"], "Unknown option '--quantise'. Try `autoprune search --help`."),
        (["search", "--model", "digits/resnet", "--weights", "."], "The weights '.' are a folder. Name the .pt"),
        (["search", "--out", "/dev/full/run"], "'/dev/full/run' lies below '/dev/full', which is a file."),
        (["search", "--workers", "two"], "--workers"),
        (["search", "--workers"], "--workers"),
        (["search", "stray"], "stray"),
        (["trace"], "Which network?"),
        (["cost", "cifar/resnet20-b"], "--widths"),
        (["search", "--workers", "0"], "--workers is 0, but must be at least 1."),
        (["search", "--candidates", "-1"], "--candidates is -1"),
        (["search", "--time-limit", "-5"], "--time-limit"),
        (["search", "--finetune-epochs", "-1"], "--finetune-epochs"),
        (["search", "--budget", "50%"], "Cannot read the budget '50%'"),
        (["search", "--experiment", "nowhere.toml"], "nowhere.toml"),
        (["search", "--resume", "nowhere"], "nowhere"),
        (["evaluate", "nowhere"], "nowhere"),
        (["evaluate", "nowhere", "--split", "tset"], "Did you mean 'test'?"),
        (["ui", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_with_exit_code_2(capsys, arguments, message):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("autoprune: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_without_a_command_the_help_is_shown(capsys):
    assert run([]) == 0
    assert "search" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["search", "prune", "train", "trace", "cost", "evaluate", "export", "report", "compare", "ui", "version"]
)
def test_every_command_has_a_help_text_without_types_of_python(capsys, command):
    assert run([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(f"autoprune {command}" in line for line in lines)
    flags = [line for line in lines if "<bool>" in line and "--help" not in line]  # that one is typer's own
    assert flags == []
    assert [line for line in lines if "[[" in line or "RUN RUN" in line] == []


def test_the_help_of_a_search_names_every_default():
    from autoprune.cli.app import app
    from autoprune.searching.inputs.options import SearchOptions
    from autoprune.searching.search.preparation import HOLDOUT_IMAGES
    from autoprune.searching.search.results import DEFAULT_FINETUNE_EPOCHS
    from autoprune.tasks.registry import CLASSIFICATION, make_task

    options = typer.main.get_command(app).commands["search"].params
    said = {item.name: item.help for item in options if not item.is_flag and item.name not in ("resume", "experiment")}
    assert [name for name, text in said.items() if "(default: " not in text] == []
    images = [make_task(name).calibration_images for name in ("detection", "segmentation")]
    for name, default in {
        "finetune_epochs": f"{DEFAULT_FINETUNE_EPOCHS:g} after a search",
        "candidates": SearchOptions().candidates,
        "holdout_images": HOLDOUT_IMAGES,
        "calibration_images": f"classification {CLASSIFICATION.calibration_images}, detection {images[0]}, "
        f"segmentation {images[1]}",
    }.items():
        assert f"(default: {default}" in said[name]


def test_the_entry_point_ends_the_process_with_the_code():
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0


def test_a_reader_that_leaves_a_help_page_early_gets_no_complaint():
    # A help page is printed by click, which answers a broken pipe with SystemExit.
    process = subprocess.Popen(
        [sys.executable, "-m", "autoprune", "search", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == BUG
    process.stderr.close()


def test_a_full_disk_under_stderr_does_not_change_the_exit_code(monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            pass

    monkeypatch.setattr("sys.stderr", Full())
    assert guarded(raising(BudgetError("Too small."))) == 2
