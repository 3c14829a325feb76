"""A saved network is found where it lies: in the folder that is named, or below a run folder."""

import pytest

from autoprune.config.layout import INCUMBENT, STRUCTURE, saved_folder
from autoprune.errors import RunError


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
    with pytest.raises(RunError, match=r"no saved network: neither structure\.json nor incumbent/structure\.json"):
        saved_folder(tmp_path / name)
