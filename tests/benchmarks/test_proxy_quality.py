"""The benchmark of proxies loses nothing of what it has measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import BackendError
from experiments.benchmarks import proxy_quality

KEYS = ("budget", "structures", "finetune", "proxies", "recommended", "failures")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The folders of the checks that were made; the first of them fails after it has measured something."""
    monkeypatch.chdir(tmp_path)
    made = []

    def check(options, asked, observer):
        made.append(options.out)
        measured = options.out / "proxies.json"
        if measured.exists():
            return dict.fromkeys(KEYS, 1)
        options.out.mkdir(parents=True)
        measured.write_text("half")
        raise BackendError("Ray did not start.")

    monkeypatch.setattr(proxy_quality, "check_proxies", check)
    return made


@pytest.fixture
def at(monkeypatch):
    """Sets the commit that is checked out."""
    return lambda commit: monkeypatch.setattr(proxy_quality, "circumstances", lambda _packages: {"commit": commit})


def test_a_check_that_failed_goes_on_in_its_folder_and_a_finished_one_is_made_anew(folders, at):
    at("abc")
    with pytest.raises(BackendError):
        proxy_quality.one("digits/resnet")
    assert (Path("runs") / "proxy_quality" / "digits-resnet-abc" / "proxies.json").read_text() == "half"
    assert proxy_quality.one("digits/resnet") == dict.fromkeys(KEYS, 1)
    assert folders[0] == folders[1]
    assert not folders[1].exists()


@pytest.mark.parametrize(("before", "after"), [("abc", "def"), ("abc", "abc+"), ("abc+", "abc+"), (None, None)])
def test_measurements_of_other_code_are_not_gone_on_from(folders, at, before, after):
    for commit in (before, after):
        at(commit)
        with pytest.raises(BackendError):
            proxy_quality.one("digits/resnet")
