"""What a run folder holds, and what is said where a file of it is missing or cannot be read."""

from __future__ import annotations

import json

import pytest

from autoprune.errors import ConfigError, RunError
from autoprune.searching.inputs.run_folder import RunFolder
from autoprune.study.ledger import Ledger


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def begin(run, **header):
    Ledger(run.path / "ledger.jsonl", run=header).close()


def write(run, name, **content):
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (RunFolder.require_run, r"holds no run: neither summary\.json nor training\.json"),
        (RunFolder.record, r"holds no run: neither summary\.json nor training\.json"),
        (RunFolder.require_search, r"holds no search: ledger\.jsonl is missing"),
        (RunFolder.training, r"holds no training: training\.json is missing"),
        (RunFolder.summary, r"summary\.json cannot be read"),
        (RunFolder.events, "Cannot read the ledger"),
        (RunFolder.header, "Cannot read the ledger"),
    ],
)
@pytest.mark.parametrize("name", ["", "nowhere", "file"])
def test_what_is_missing_is_one_line_that_names_the_folder(run, asked, message, name):
    (run.path / "file").write_text("no folder")
    run = RunFolder(run.path / name)
    with pytest.raises(RunError, match=message) as raised:
        asked(run)
    assert str(run.path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (run.recorded("uuid"), run.recorded_path("weights"), run.has_outcomes()) == (None, None, False)
    run.require_new()


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "[" * 100_000, '{"format": 0}'])
def test_a_file_that_cannot_be_read_is_one_line_that_says_what_to_do(run, text):
    for name, asked, remedy in (
        ("summary.json", lambda: run.summary(remedy="Search anew."), "Search anew."),
        ("training.json", run.training, "Start the training anew."),
    ):
        (run.path / name).write_text(text)
        with pytest.raises(RunError, match=remedy) as raised:
            asked()
        assert name in str(raised.value)


@pytest.mark.parametrize("content", [{"kind": "train", "options": {}}, {"format": 1, "kind": "pick", "options": {}}])
def test_the_record_of_a_training_names_its_format_command_and_options(run, content):
    write(run, "training.json", **content)
    with pytest.raises(RunError, match="is not the record of a training of this version"):
        run.training()


@pytest.mark.parametrize("name", ["summary.json", "training.json"])
def test_a_newer_format_says_which_autoprune_reads_it(run, name):
    write(run, name, format=2, versions={"autoprune": "9.0"}, kind="train")
    with pytest.raises(RunError, match=r"needs autoprune 9\.0 or newer"):
        run.record()


def test_the_header_answers_by_name_also_for_the_network_in_the_folder(run):
    weights = run.path / "dense.pt"
    weights.touch()
    begin(run, candidates=33, options={"weights": str(weights), "data_root": None, "out": "gone", "device": "\0"})
    around = RunFolder.around(run.path / "incumbent")
    assert around == run
    assert (around.recorded("candidates"), around.recorded("latency")) == (33, None)
    assert around.recorded_path("weights") == weights
    assert [around.recorded_path(name) for name in ("data_root", "out", "device", "nothing")] == [None] * 4


def test_the_kind_of_a_run_is_told_by_its_files(run):
    write(run, "training.json", format=1, kind="finetune", options={})
    assert run.record().kind == "finetune"
    write(run, "summary.json", method={"name": "acp"})
    write(run, "incumbent/structure.json", widths={"a": 3})
    assert (run.record().kind, run.record().widths) == ("prune", {"a": 3})
    write(run, "summary.json", interrupted=False)
    assert run.record().kind == "prune"
    begin(run)
    assert (run.record().kind, len(run.record().events)) == ("search", 1)


def test_a_search_without_its_summary_has_not_ended(run):
    begin(run)
    run.require_run()
    run.require_search()
    with pytest.raises(RunError, match="continue it with --resume"):
        run.record()
    run.require_new()
    write(run, "summary.json")
    with pytest.raises(ConfigError, match="already holds a run"):
        run.require_new()
