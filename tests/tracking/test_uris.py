"""Invariants: a masked address holds no secret and still names its host; masking twice changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.tracking.uris import (
    artifact_root,
    default_store,
    is_server,
    mask_secrets,
    mask_uri,
    server_base,
    store_file,
)

SECRETS = [
    "https://me:hunter2@mlflow.example.org/path",
    "https://hunter2@mlflow.example.org",
    "postgresql://me:hun@ter2@mlflow.example.org:5432/db".replace("hun@ter2", "x@hunter2"),
    "https://mlflow.example.org/?token=hunter2&run=1",
    "https://mlflow.example.org/?a=1&password=hunter2",
    "mysql+pymysql://me:hunter2@mlflow.example.org/db?ssl_key=hunter2",
    "https://mlflow.example.org/x?X-Amz-Signature=hunter2#part",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_a_masked_address_hides_the_secret_and_names_the_host(uri: str) -> None:
    shown = mask_uri(uri)
    assert "hunter2" not in shown
    assert "mlflow.example.org" in shown
    assert mask_uri(shown) == shown


@pytest.mark.parametrize("uri", ["sqlite:////home/a@b/mlflow.db", "http://127.0.0.1:5000", "file:///x/y"])
def test_an_address_without_secrets_stays_as_it_is(uri: str) -> None:
    assert mask_uri(uri) == uri


def test_secrets_are_masked_inside_an_error_message() -> None:
    text = mask_secrets("Max retries: https://me:hunter2@host:1/api (refused), see http://other/?token=hunter2.")
    assert "hunter2" not in text
    assert "refused" in text


def test_the_default_store_lies_in_the_folder_with_its_files_beside_it(tmp_path: Path) -> None:
    uri = default_store(tmp_path)
    assert store_file(uri) == tmp_path / "mlflow.db"
    assert artifact_root(uri) == (tmp_path / "mlartifacts").as_uri()
    assert not is_server(uri)


def test_a_server_decides_itself_where_files_lie() -> None:
    assert artifact_root("https://host") is None
    assert store_file("https://host") is None
    assert store_file("sqlite:///:memory:") is None
    assert is_server("https://host")


def test_a_link_drops_user_password_and_query() -> None:
    assert server_base("https://me:hunter2@host:8/ml/?token=hunter2") == "https://host:8/ml"
