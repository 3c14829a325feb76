"""Damaged ledgers, newer formats, files that are forged: what each does."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

from toy_search import build_study, run_by_hand

from autoprune.cli.training_commands import finetune, train
from autoprune.config.options import CODE_OPTIONS, OPTIONS
from autoprune.core.files import require_format, write_together
from autoprune.errors import PluginError, RunError
from autoprune.plugins import require_foreign
from autoprune.searching.inputs.recorded import recorded_options
from autoprune.study import Ledger, read_ledger, replay
from autoprune.study.ledger import encode_line
from autoprune.tracking.uris import place_on_disk

RUN = {"seed": 7}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, run=RUN) as ledger:
        run_by_hand(build_study(trackers=[ledger], candidates=6))
    return path


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def test_a_truncated_last_line_is_dropped_with_a_warning(path, caplog, tally):
    whole = read_ledger(path)
    path.write_bytes(path.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        assert read_ledger(path) == whole[:-1]
    assert "last line of the ledger" in caplog.text
    tally("truncated ledger line", "the line alone is dropped")


def test_zeros_that_a_power_cut_leaves_at_the_end_are_dropped(path):
    whole = read_ledger(path)
    path.write_bytes(path.read_bytes() + b"\0" * 4096)
    assert read_ledger(path) == whole
    with Ledger(path, run=RUN) as ledger:
        assert ledger.events == whole
    assert b"\0" not in path.read_bytes()


def test_a_corrupt_line_is_named_with_the_command_that_keeps_those_before_it(path):
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:3], lines[3].replace(b'"event"', b'"evEnt"'), *lines[4:]]))
    with pytest.raises(RunError, match=r"Line 4 of the ledger .* is damaged.*head -n 3 .*ledger\.jsonl"):
        read_ledger(path)


def test_a_line_written_twice_counts_once_and_what_follows_is_not_lost(path, caplog):
    whole, lines = read_ledger(path), lines_of(path)
    for at in range(len(lines)):
        path.write_bytes(b"".join([*lines[: at + 1], *lines[at:]]))
        assert read_ledger(path) == whole
    assert "repeats an earlier one" in caplog.text
    with Ledger(path, run=RUN) as ledger:
        study = build_study(candidates=6)
        assert replay(ledger.events, study).diverged_at is None
        ledger.waited()
    assert read_ledger(path) == (*whole, {"event": "waited"})


@pytest.mark.parametrize("content", [b"", b'{"event":"header","form'])
def test_a_ledger_without_a_whole_line_is_started_anew(path, content):
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"nothing was computed\. Start the search anew"):
        read_ledger(path)
    with Ledger(path, run=RUN) as ledger:
        assert ledger.events[0]["run"] == RUN
    assert len(read_ledger(path)) == 1


def test_a_disk_that_refuses_the_first_line_is_left_without_a_ledger(tmp_path, monkeypatch):
    written = os.write

    def full(descriptor, data):
        written(descriptor, bytes(data)[:9])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "ledger.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RunError, match="No space left on device"):
            Ledger(path, run=RUN)
    assert not list(tmp_path.iterdir())
    with Ledger(path, run=RUN) as ledger:
        assert len(ledger.events) == 1


def test_a_network_that_is_saved_again_clears_what_a_killed_save_left(tmp_path):
    from tests.models.saved_cut import saved_cut

    (tmp_path / ".model.safetensors.abcd1234.tmp").write_bytes(b"half")
    saved_cut(tmp_path, None)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.safetensors", "structure.json"]


def test_a_line_with_a_right_checksum_and_wrong_types_is_refused(path):
    lines = lines_of(path)
    event = {key: value for key, value in json.loads(lines[1]).items() if key != "check"}
    for forged in ({**event, "id": "../../x"}, {**event, "widths": [-1]}, {**event, "event": "run"}, {"event": "told"}):
        path.write_bytes(b"".join([lines[0], encode_line(forged), *lines[2:]]))
        with pytest.raises(RunError, match=r"Line 2 of the ledger .* is none that a search writes"):
            read_ledger(path)


def test_a_ledger_of_a_newer_format_says_which_autoprune_reads_it(path):
    header = {"event": "header", "format": 2, "autoprune": "3.1.0", "run": RUN}
    path.write_bytes(encode_line(header))
    with pytest.raises(RunError, match=r"format 2; this version reads 1 .*needs autoprune 3\.1\.0 or newer"):
        read_ledger(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 2, "versions": {"autoprune": "9.0"}}, "It needs autoprune 9.0 or newer"),
        ({"format": 2}, "It needs a newer autoprune"),
        ({"format": 0}, "Make it again"),
        ({}, "format None"),
        ({"format": True}, "format True"),
        ({"format": "2"}, "format '2'"),
    ],
)
def test_another_format_is_refused(content, message):
    with pytest.raises(RunError, match=message):
        require_format(content, reads=1, where="x.json", remedy="Make it again.")
    require_format({"format": 1}, reads=1, where="x.json", remedy="Make it again.")


def test_newer_structures_and_records_are_refused(tmp_path):
    from autoprune.models.storage.saved import SavedModel
    from autoprune.searching.inputs.run_folder import RunFolder

    newer = json.dumps({"format": 2, "autoprune": "9.0", "versions": {"autoprune": "9.0"}, "kind": "train"})
    with pytest.raises(RunError, match=r"needs autoprune 9\.0 or newer"):
        SavedModel.from_json(newer, "structure.json")
    (tmp_path / "training.json").write_text(newer)
    with pytest.raises(RunError, match=r"needs autoprune 9\.0 or newer"):
        RunFolder(tmp_path).training()


def test_files_that_belong_together_stay_as_they_were_where_one_cannot_be_written(tmp_path):
    weights, structure = tmp_path / "w", tmp_path / "s"
    write_together({weights: lambda p: p.write_text("1"), structure: lambda p: p.write_text("1")})

    def full(place):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_together({weights: lambda p: p.write_text("2"), structure: full})
    assert (weights.read_text(), structure.read_text()) == ("1", "1")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["s", "w"]


class TestForeignCode:
    @pytest.mark.parametrize("spec", ["os:abort", "sys:exit", "antigravity:fly", "subprocess:run"])
    def test_a_file_cannot_call_the_standard_library(self, spec, tmp_path):
        with pytest.raises(PluginError, match="is not called"):
            require_foreign(spec, tmp_path)

    @pytest.mark.parametrize("module", ["evil.py", "evil/__init__.py"])
    def test_a_file_cannot_run_code_that_came_with_it(self, module, tmp_path, monkeypatch):
        (tmp_path / module).parent.mkdir(exist_ok=True)
        (tmp_path / module).write_text("open('ran', 'w')")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(PluginError, match="would run code that lies in"):
            require_foreign("evil:make", tmp_path)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.read is OPTIONS["model"].read])
    def test_no_text_of_a_run_folder_leads_to_code_in_it(self, name, tmp_path, monkeypatch):
        """Every option that takes any text, so that one which will lead to code, and is not listed as such, fails."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        (tmp_path / "evilmod.py").write_text("open('ran', 'w')")
        header = {"options": {"model": "digits/resnet", "no_mlflow": True, name: "evilmod:make"}}
        if name == "tracking_uri":  # is read by MLflow alone
            recorded_options(header, tmp_path)
        else:
            expected = "would run code that lies in" if name in CODE_OPTIONS else "cannot go on with what its ledger"
            with pytest.raises(RunError, match=expected):
                recorded_options(header, tmp_path)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("command", [train, partial(finetune, None)])
    @pytest.mark.parametrize("name", sorted({*CODE_OPTIONS} - {"strategy"}))  # which a training has none of
    def test_no_record_of_a_training_leads_to_code_beside_it(self, command, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "evilmod.py").write_text("open('ran', 'w')")
        options = {"model": "digits/resnet", "source": "net", "epochs": 1, "no_mlflow": True, name: "evilmod:make"}
        kind = "train" if command is train else "finetune"
        (tmp_path / "training.json").write_text(json.dumps({"format": 1, "kind": kind, "options": options}))
        with pytest.raises(RunError, match="would run code that lies in"):
            command({}, resume=tmp_path, as_json=False)
        assert not (tmp_path / "ran").exists()

    def test_other_names_pass(self, tmp_path):
        for spec in (None, "cifar/resnet20-b", "digits", "no_such_module_at_all:make", "torch.nn:Linear"):
            require_foreign(spec, tmp_path)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("sqlite:////home/me/x.db", "/home/me/x.db"),
        ("sqlite:///x.db?mode=rw", "x.db"),
        ("sqlite+pysqlite:////x.db", "/x.db"),
        ("file:///home/me", "/home/me"),
        ("file:/home/me", "/home/me"),
        ("./mlruns", "mlruns"),
        ("https://host", None),
        ("postgresql://host/db", None),
    ],
)
def test_where_a_store_lies_on_the_disk(uri, place):
    assert place_on_disk(uri) == (None if place is None else Path(place))


class TestRecordedStores:
    def store(self, uri, folder):
        from autoprune.searching.inputs.recorded import recorded_store

        return recorded_store(uri, folder)

    def test_a_store_beside_the_run_and_a_server_are_used_again(self, tmp_path, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        beside = f"sqlite:///{tmp_path / 'mlflow.db'}"
        assert self.store(beside, tmp_path / "run") == beside
        assert self.store("https://host", tmp_path / "run") == "https://host"
        assert self.store(None, tmp_path / "run") is None

    @pytest.mark.parametrize(
        "uri", ["sqlite:////x/y.db", "sqlite:///../../../../x.db", "file:///", "", 5, "\0", "a\nb"]
    )
    def test_a_store_elsewhere_on_the_disk_has_to_be_named_by_a_person(self, tmp_path, monkeypatch, uri):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(RunError, match=r"outside the folder of runs.*--tracking-uri"):
            self.store(uri, tmp_path / "runs" / "run")

    def test_a_secret_that_was_not_written_down_has_to_be_given_again(self, tmp_path, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(RunError, match="has a secret"):
            self.store("https://me:***@host", tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@host")
        assert self.store("https://me:***@host", tmp_path) is None


def test_no_written_command_holds_a_secret(monkeypatch):
    from autoprune.searching.search.results import command_line

    monkeypatch.setattr(
        sys, "argv", ["autoprune", "search", "--tracking-uri", "https://me:hunter2@host/?token=hunter2"]
    )
    assert "hunter2" not in command_line()
    assert "host" in command_line()
