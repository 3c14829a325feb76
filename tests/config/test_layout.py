"""A saved network is found where it lies: in the folder that is named, or below a run folder."""

from pathlib import Path

import pytest

from autoprune.config.layout import (
    INCUMBENT,
    LEDGER,
    STRUCTURE,
    SUMMARY,
    TRAINING,
    found_instead,
    require_folder_place,
    saved_folder,
)
from autoprune.errors import ConfigError, RunError


def saved_in(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STRUCTURE).write_text("{}")
    return folder


def test_the_named_folder_comes_before_the_incumbent_of_a_run(tmp_path):
    incumbent = saved_in(tmp_path / INCUMBENT)
    assert saved_folder(tmp_path) == saved_folder(incumbent) == incumbent
    assert saved_folder(saved_in(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_folder_without_a_network_is_one_clear_line(tmp_path, name):
    (tmp_path / "file").write_text("no folder")
    there = "It is a file" if name == "file" else "There is no such folder"
    with pytest.raises(RunError, match=rf"no saved network: neither structure\.json nor incumbent/.*\. {there}\.$"):
        saved_folder(tmp_path / name)


@pytest.mark.parametrize(("name", "kind"), [(LEDGER, "search"), (TRAINING, "training"), (SUMMARY, "pruning")])
def test_a_folder_of_another_kind_is_called_what_it_is(tmp_path, name, kind):
    assert found_instead(tmp_path) == ""
    (tmp_path / name).touch()
    assert found_instead(tmp_path) == f" It holds a {kind}."


def test_an_output_folder_may_be_missing_but_no_file_may_be_in_its_way(tmp_path):
    (tmp_path / "file").touch()
    require_folder_place(None)
    require_folder_place(tmp_path)
    require_folder_place(tmp_path / "not" / "yet")
    with pytest.raises(ConfigError, match=r"file' is a file\. Name another one with --out\.$"):
        require_folder_place(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"run' lies below '.*file', which is a file\. Name another"):
        require_folder_place(tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match="is a file"):
        require_folder_place(Path("/dev/full"))
