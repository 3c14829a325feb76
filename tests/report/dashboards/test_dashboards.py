"""Invariants: Optuna and TensorBoard read back every candidate with its widths, and no figure of another rung."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from autoprune.errors import ConfigError, RunError
from autoprune.report.dashboards.optuna_study import require_place, write_study
from autoprune.report.dashboards.tensorboard import write_events
from tests.report.recorded_run import GROUPS, pruning, search, shown


def studied(path, record=None):
    record = record or search()
    name = write_study(path, record, shown(record)[1])
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def test_a_candidate_is_the_trial_of_its_number(tmp_path):
    study = studied(tmp_path / "studies.log")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["hold-out accuracy", "share of the FLOPs"]
    rows = shown(search())[1]
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE", "FAIL"]
    for row in rows:
        trial = study.trials[row["id"]]
        assert trial.params == row["widths"]
        assert trial.user_attrs["proposed_by"] == row["proposed_by"]
        assert trial.user_attrs["accuracy"] == row["accuracy"]
        if trial.state.name == "COMPLETE":
            assert trial.values == [row["accuracy"], row["retained_flops"]]
    assert study.trials[4].user_attrs["failed"] == "NaN"
    assert all(trial.distributions[name].high == width for trial in study.trials for name, width in GROUPS.items())


def test_optuna_finds_the_front_that_the_search_found(tmp_path):
    best = studied(tmp_path / "studies.log").best_trials
    assert sorted(trial.number for trial in best) == sorted(row["id"] for row in shown(search())[1] if row["front"])


def test_a_file_takes_several_searches_but_none_twice(tmp_path):
    path = tmp_path / "deep" / "studies.log"
    studied(path)
    other = replace(search(), folder="runs/other")
    assert len(studied(path, other).trials) == len(studied(tmp_path / "b.log").trials)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="holds a study 'other' already"):
        studied(path, other)
    assert path.read_bytes() == before
    assert sorted(item.name for item in path.parent.iterdir()) == ["studies.log"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
def test_a_device_is_refused_at_once():
    # It reads as zeros without end.
    for attempt in (lambda: studied(Path("/dev/full")), lambda: require_place(Path("/dev/full"))):
        with pytest.raises(RunError, match="Cannot write /dev/full: it leads to a device or a pipe, not to a file"):
            attempt()
    assert Path("/dev/full").is_char_device()


def test_a_file_of_something_else_stays_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine" * 1000)
    with pytest.raises(ConfigError, match="is no journal of Optuna studies"):
        studied(path)
    assert path.read_text() == "mine" * 1000
    with pytest.raises(RunError, match=r"Cannot write .*Name another file with --optuna"):
        studied(tmp_path / "notes.txt" / "studies.log")


def events(folder):
    """Returns the summaries in TensorBoard's files of a folder: (length, its checksum, data, their checksum) each."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_tensorboard_has_the_progress_and_the_candidates_of_the_last_rung(tmp_path):
    record = search()
    numbers, rows, _ = shown(record)
    place = write_events(tmp_path / "logs", record, rows, numbers["progress"])
    assert place == tmp_path / "logs" / "some"
    curve = {
        event.step: value.simple_value
        for event in events(place)
        for value in event.summary.value
        if value.tag == "search/incumbent_accuracy"
    }
    assert curve == pytest.approx({step["candidates"]: step["accuracy"] for step in numbers["progress"]})
    assert sorted(item.name for item in place.iterdir() if item.is_dir()) == [
        "candidate-000",
        "candidate-001",
        "candidate-003",
    ]
    values = {
        value.tag: value.simple_value for event in events(place / "candidate-001") for value in event.summary.value
    }
    assert values["candidate/hold-out_accuracy"] == pytest.approx(0.8)
    assert values["candidate/share_of_the_FLOPs"] == pytest.approx(0.49)
    settings = [
        value.metadata.plugin_data.content
        for event in events(place / "candidate-001")
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    assert any(b"width/block.conv" in content for content in settings)
    with pytest.raises(ConfigError, match="is there already"):
        write_events(tmp_path / "logs", record, rows, numbers["progress"])


def test_a_run_without_candidates_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'runs/pruned' holds no search"):
        write_study(tmp_path / "studies.log", pruning(), [])
    with pytest.raises(ConfigError, match="holds no search"):
        write_events(tmp_path / "logs", pruning(), [], [])
    assert not list(tmp_path.iterdir())
