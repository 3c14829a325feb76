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


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "https://host", "sqlite:////nowhere/mlflow.db"])
def test_what_may_be_down_now_is_not_asked(uri, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    require_usable(uri)
