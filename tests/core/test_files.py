from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import pytest

from autoprune.core.files import atomic_write_text, remove_leftovers, write_together, write_whole
from autoprune.errors import RunError


def test_where_a_rename_fails_the_file_that_vouches_for_the_others_is_gone(tmp_path, monkeypatch):
    weights, structure = tmp_path / "w", tmp_path / "s"
    write_together({weights: lambda p: p.write_text("1"), structure: lambda p: p.write_text("1")})

    def refuse(*_places):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_together({weights: lambda p: p.write_text("2"), structure: lambda p: p.write_text("2")})
    assert [item.name for item in tmp_path.iterdir()] == ["w"]
    assert weights.read_text() == "1"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_permissions_follow_the_mask_which_is_not_touched(tmp_path, monkeypatch, mask):
    def replaced(place):
        place.unlink()
        place.touch(mode=0o600)

    before = os.umask(mask)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("every thread of the process would feel it"))
            write_whole(tmp_path / "w", lambda place: place.write_text("1"))
            write_whole(tmp_path / "own", replaced)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("w", "own")] == [0o666 & ~mask] * 2


def test_what_lies_under_the_first_name_tried_is_neither_followed_nor_replaced(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    (tmp_path / ".w.00000000.tmp").symlink_to(outside)
    names = iter(["00000000", "11111111"])
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(names))
    write_whole(tmp_path / "w", lambda place: place.write_text("ours"))
    assert (outside.read_text(), (tmp_path / "w").read_text()) == ("theirs", "ours")
    assert (tmp_path / ".w.00000000.tmp").is_symlink()


def test_what_a_killed_writer_leaves_is_known_as_such(tmp_path):
    def killed(place):
        place.rename(tmp_path / f"{place.name}.kept")
        raise SystemExit

    with pytest.raises(SystemExit):
        write_whole(tmp_path / "w", killed)
    (left,) = tmp_path.iterdir()
    left.rename(left.with_name(left.name.removesuffix(".kept")))
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_refused_before_anything_is_written_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it leads to a device or a pipe, not to a file"):
        write_together({tmp_path / "first": lambda _: pytest.fail("written"), tmp_path / "pipe": lambda _: None})
    assert [item.name for item in tmp_path.iterdir()] == ["pipe"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_the_error_for_a_device_does_not_speak_of_space():
    with pytest.raises(RunError) as error:
        atomic_write_text(Path("/dev/null"), "x")
    assert str(error.value) == (
        "Cannot write /dev/null: it leads to a device or a pipe, not to a file. Name another place with --out."
    )


def test_a_link_to_what_a_process_has_open_is_refused_though_a_file_lies_behind_it(tmp_path):
    behind, stdout = tmp_path / "behind", tmp_path / "stdout"
    with behind.open("w") as file:
        stdout.symlink_to(f"/proc/self/fd/{file.fileno()}")
        (tmp_path / "further").symlink_to("stdout")
        for path in (stdout, tmp_path / "further", Path(f"/dev/fd/{file.fileno()}")):
            assert path.is_file()
            with pytest.raises(RunError, match="it leads to a device or a pipe"):
                atomic_write_text(path, "x")
    assert stdout.is_symlink()
    assert behind.read_text() == ""


def test_other_links_make_way_for_the_file(tmp_path):
    (tmp_path / "behind").write_text("theirs")
    (tmp_path / "link").symlink_to("behind")
    (tmp_path / "round").symlink_to("round")
    for name in ("link", "round"):
        atomic_write_text(tmp_path / name, "ours")
        assert (tmp_path / name).read_text() == "ours"
    assert (tmp_path / "behind").read_text() == "theirs"
