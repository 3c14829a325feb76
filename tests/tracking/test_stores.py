from __future__ import annotations

import sys

import pytest

from autoprune.errors import ConfigError
from autoprune.tracking.stores import require_usable


@pytest.mark.parametrize("uri", ["foo://bar", "folder", "file:///folder"])
def test_a_store_that_mlflow_does_not_have_is_refused_in_one_line(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^MLflow cannot use the store '{uri}': .*--no-mlflow\.$") as caught:
        require_usable(uri)
    assert len(str(caught.value)) < 400
    assert list(tmp_path.iterdir()) == []


def test_a_secret_in_an_address_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        require_usable("foo://me:hidden@host/store")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "https://host", "sqlite:///mlflow.db"])
def test_what_may_be_down_now_is_not_asked(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    require_usable(uri)


@pytest.mark.parametrize("uri", ["sqlite:///nowhere/mlflow.db", "sqlite:////nowhere/of/this/disk/mlflow.db?timeout=5"])
def test_a_folder_that_is_missing_is_made_for_a_store_of_ours_and_refused_for_one_that_was_named(
    uri, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^The folder of the MLflow store .* does not exist: '/?nowhere"):
        require_usable(uri)
    require_usable(uri, named=False)
    assert list(tmp_path.iterdir()) == []
