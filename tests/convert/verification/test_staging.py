"""Folders take their place once they are verified; nothing else is left of those that do not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from rir_convert.verification.staging import verified_folder

from rir_mlx.errors import Failure, UserError


def write(folder: Path, text: str = "new") -> None:
    folder.mkdir()
    (folder / "verification.json").write_text(text, encoding="utf-8")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail(folder: Path, error: BaseException) -> None:
    with verified_folder(folder) as written:
        write(written)
        raise error


def test_two_exports_to_the_same_folder_do_not_destroy_each_other(tmp_path: Path) -> None:
    """The second deleted what the first was writing."""
    folder = tmp_path / "runs" / "qa-hf"
    with verified_folder(folder) as written:
        write(written)
        with pytest.raises(UserError, match=r"Another process is writing .*qa-hf\."), verified_folder(folder):
            pass
        with verified_folder(folder.with_name("qa-mlx")) as other:
            write(other)
        assert names(written) == ["verification.json"]
    assert names(folder.parent) == ["qa-hf", "qa-mlx"]


def test_a_lock_that_a_killed_process_left_locks_nobody_out(tmp_path: Path) -> None:
    (tmp_path / ".qa-hf.lock").touch()
    with verified_folder(tmp_path / "qa-hf") as written:
        write(written)
    assert names(tmp_path) == ["qa-hf"]


@pytest.mark.parametrize("error", [UserError("x"), KeyboardInterrupt(), ValueError("x")])
def test_any_error_but_a_failed_verification_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    """After the record of a passed verification, a card that could not be written left the unverified folder."""
    write(tmp_path / "qa-hf", "old")
    with pytest.raises(type(error)):
        fail(tmp_path / "qa-hf", error)
    assert names(tmp_path) == ["qa-hf"]
    assert (tmp_path / "qa-hf" / "verification.json").read_text(encoding="utf-8") == "old"


def test_a_failed_verification_is_kept_aside(tmp_path: Path) -> None:
    write(tmp_path / "qa-hf", "old")
    with pytest.raises(Failure):
        fail(tmp_path / "qa-hf", Failure("x"))
    assert names(tmp_path) == ["qa-hf", "qa-hf.rejected"]


def test_nothing_is_left_of_an_export_that_is_asked_to_end(tmp_path: Path) -> None:
    def export() -> None:
        with verified_folder(tmp_path / "qa-hf") as written:
            written.mkdir()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        export()
    assert list(tmp_path.iterdir()) == []
