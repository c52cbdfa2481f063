"""Atomic writes: a file or folder is the old one or the new one, and only failed writes are reported as such."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rir_mlx.errors import Failure, UserError
from rir_mlx.storage import atomic
from rir_mlx.storage.atomic import creating, read_json, read_jsonl, replace_folder, replacing, write_text


def folder_with(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "file").write_text(text)
    return path


def test_a_missing_input_is_not_reported_as_a_failed_write(tmp_path: Path) -> None:
    write_text(tmp_path / "target", "before")
    with pytest.raises(FileNotFoundError, match="no-such-input"), replacing(tmp_path / "target") as temporary:
        temporary.write_text((tmp_path / "no-such-input").read_text())
    assert (tmp_path / "target").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_lost_connection_is_not_reported_as_a_failed_write(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), replacing(tmp_path / "target"):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def test_an_unwritable_path_and_a_full_disk_are_reported_with_the_target(tmp_path: Path) -> None:
    with (
        pytest.raises(Failure, match=r"target could not be written: No such file"),
        replacing(tmp_path / "target") as new,
    ):
        (new / "missing folder" / "file").write_text("x")
    with pytest.raises(Failure, match=r"target could not be written: No space left"), replacing(tmp_path / "target"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(Failure, match=r"target could not be written"), replacing(tmp_path / "target"):
        pass  # nothing was written
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b'{"a": 1', b"[1]", b'{"a": "\xff"}', b"3"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b'{"a": 0}\n' + content + b"\n")
    rows = read_jsonl(path, "Write it again.")
    assert next(rows) == {"a": 0}
    with pytest.raises(UserError, match=r"rows, line 2, cannot be read: (.|\n)*Write it again"):
        list(rows)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"rows cannot be read: (.|\n)*Write it again"):
        read_json(path, "Write it again.")
    path.unlink()
    for read in (lambda: read_json(path, "Write it again."), lambda: list(read_jsonl(path, "Write it again."))):
        with pytest.raises(UserError, match="rows cannot be read: No such file or directory"):
            read()


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    new, place = folder_with(tmp_path / "new", "new"), folder_with(tmp_path / "place", "old")
    (place / "only in the old one").touch()
    aside = tmp_path / ".place.of-a-process-that-was-killed.tmp"
    aside.mkdir()
    folder_with(aside / "old", "older")  # exports are gigabytes
    replace_folder(new, place)
    assert [path.name for path in place.iterdir()] == ["file"]
    assert (place / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_folder_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, place = folder_with(tmp_path / "new", "new"), folder_with(tmp_path / "place", "old")
    rename = os.replace

    def failing(source: Path, target: Path) -> None:
        if source == new:
            raise OSError(errno.EIO, "Input/output error", str(source))
        rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", failing)
    with pytest.raises(Failure, match=r"place could not be written: Input/output error"):
        replace_folder(new, place)
    assert (place / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "place"]


@pytest.mark.parametrize("links", [True, False])
def test_new_files_get_their_names_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    one, two = tmp_path / "one", tmp_path / "two"

    def write(paths: list[Path], meanwhile: str = "") -> None:
        with creating(paths) as written:
            for file in written:
                file.write_text("new")
            assert not one.exists()
            if meanwhile:
                two.write_text(meanwhile)

    with pytest.raises(FileExistsError):
        write([one, two], "somebody else's")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("two", "somebody else's")]
    two.unlink()
    write([one, two])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"one": "new", "two": "new"}


def test_half_a_character_is_written_only_where_it_is_meant(tmp_path: Path) -> None:
    """A file of ours with bytes that are no UTF-8 could not be read again."""
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "own", "caf\udce9")
    assert not (tmp_path / "own").exists()
    write_text(tmp_path / "rows", "caf\udce9", errors="surrogateescape")
    assert (tmp_path / "rows").read_bytes() == b"caf\xe9"


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(Failure, match="kept"):
        write_text(tmp_path / "kept", "x")
    assert (tmp_path / "kept").is_dir()
