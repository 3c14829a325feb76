from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoprune.data import load_data
from autoprune.models.zoo.weights import state_fingerprint
from autoprune.training import Recipe, default, measure


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        default, "_EMBEDDED", {default.DEFAULT_MODEL: (1, Recipe(epochs=0.2, learning_rate=0.05, batch_size=64))}
    )


@pytest.mark.usefixtures("short")
def test_the_default_network_is_trained_once_and_then_read(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    state = torch.get_rng_state()
    first = default.embedded_model(cache_dir=tmp_path / "new" / "folder", on_progress=lambda *step: told.append(step))
    assert torch.equal(torch.get_rng_state(), state)
    assert told[-1] == (3, 3)
    told.clear()
    again = default.embedded_model(cache_dir=tmp_path / "new" / "folder", on_progress=lambda *step: told.append(step))
    assert not told
    assert state_fingerprint(again) == state_fingerprint(first)
    assert not again.training
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-9] + b"\x01" * 9])
def test_a_damaged_file_is_trained_anew(damage, tmp_path: Path) -> None:
    first = default.embedded_model(cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert state_fingerprint(default.embedded_model(cache_dir=tmp_path)) == state_fingerprint(first)
    assert path.stat().st_size > 1000


@pytest.mark.usefixtures("short")
def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    assert not default.embedded_model(cache_dir=tmp_path / "file" / "cache").training
    assert "cannot be kept" in caplog.text


def test_the_cache_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(default.CACHE_VARIABLE, str(tmp_path))
    assert default.default_cache_dir() == tmp_path


@pytest.mark.slow
def test_the_default_network_reads_digits(tmp_path: Path) -> None:
    assert measure(default.embedded_model(cache_dir=tmp_path), load_data("digits").test).accuracy > 0.97
