from __future__ import annotations

import importlib.metadata
from pathlib import PurePosixPath

import pytest

from autoprune.config import resources
from autoprune.errors import ConfigError


def test_a_path_wins_over_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").write_text("")
    assert resources.resource_path("search_spaces", "default").resolve() == tmp_path / "default"


@pytest.mark.parametrize("name", ["default", "default.toml"])
def test_a_shipped_file_is_found_with_and_without_its_suffix(name):
    assert resources.resource_path("search_spaces", name).name == "default.toml"


def test_an_unknown_name_is_an_error_that_says_what_there_is():
    with pytest.raises(ConfigError, match=r"Known: cifar-densenet40, .*, default, imagenet-"):
        resources.resource_path("search_spaces", "zzz")


def test_an_installed_package_finds_them_through_its_record(tmp_path, monkeypatch):
    class File(PurePosixPath):
        def locate(self):
            return tmp_path / self.name

    recorded = [File("../../../share/autoprune/experiments/mine.toml"), File("autoprune/errors.py")]
    monkeypatch.setattr(resources, "__file__", str(tmp_path / "site" / "autoprune" / "config" / "resources.py"))
    monkeypatch.setattr(importlib.metadata, "files", lambda name: recorded)
    assert resources.resource_names("experiments") == ("mine",)
    assert resources.resource_path("experiments", "mine") == tmp_path / "mine.toml"
    assert resources.resource_names("search_spaces") == ()
