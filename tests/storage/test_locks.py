"""One lock for runs, journals, exports and temporary folders: kept by the system, or by a marker where it cannot."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from rir_convert.verification.staging import verified_folder

from rir_mlx.errors import Failure, UserError
from rir_mlx.progress import Silent
from rir_mlx.storage.atomic import replacing, write_text
from rir_mlx.storage.journal import Journal
from rir_mlx.storage.locks import Held, Lock, lock_file, try_to_lock
from rir_mlx.storage.resumable_file import ResumableFile
from rir_mlx.storage.run_lock import RunLock

NO_LOCKS = [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL]


@pytest.fixture(params=["locks", *NO_LOCKS], ids=lambda number: errno.errorcode.get(number, number))
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | int:
    """A file system with locks, or one that answers a lock with that error, as network file systems do."""

    def without(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param != "locks":
        monkeypatch.setattr(fcntl, "flock", without)
    found: str | int = request.param
    return found


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_has_one_holder(tmp_path: Path, file_system: str | int) -> None:
    for path in (tmp_path / "folder", tmp_path / "file"):
        path.mkdir() if path.name == "folder" else path.touch()
        first = Lock(path)
        first.acquire()
        with pytest.raises(Held):
            Lock(path).acquire()
        assert try_to_lock(path) is None
        first.release()
        again = try_to_lock(path)
        assert again is not None
        again.release()
        again.release()  # once is enough
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}
    assert try_to_lock(tmp_path / "gone") is None


@contextmanager
def exporting(folder: Path) -> Iterator[None]:
    with verified_folder(folder / "hf") as written:
        written.mkdir()
        yield


WRITERS: dict[str, Callable[[Path], AbstractContextManager[object]]] = {
    "run": RunLock,
    "journal": lambda folder: Journal(folder / "journal.jsonl"),
    "file": lambda folder: ResumableFile(folder / "out.csv", {}, force=False, progress=Silent()),
    "export": exporting,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_everything_that_is_written_is_refused_to_a_second_writer(
    tmp_path: Path, file_system: str | int, kind: str
) -> None:
    """Without locks, a run ended in `NotImplementedError`, and two writers of a journal did not hear of each other."""
    write = WRITERS[kind]
    with write(tmp_path), pytest.raises(UserError, match="Another process is writing") as raised, write(tmp_path):
        pass
    marked = "This file system has no locks: if no other machine is writing there, delete " in raised.value.hint
    assert marked == (file_system != "locks")


@pytest.mark.parametrize("file_system", [errno.EOPNOTSUPP], indirect=True)
def test_a_marker_whose_process_has_ended_is_stale(tmp_path: Path, file_system: int) -> None:
    """A killed process leaves its marker; the next one takes it over. One of another machine cannot be asked about."""
    marker = tmp_path / "..lock.held"
    holder = Lock(tmp_path / ".lock")
    holder.acquire(create=True)
    mine = marker.read_text(encoding="utf-8")
    holder.release()
    assert not marker.exists()
    own = str(os.getpid())
    assert mine.splitlines()[0] == own
    host = mine.splitlines()[1]
    marker.write_text(f"{ended_process()}\n{host}\n", encoding="utf-8")
    with RunLock(tmp_path):
        assert marker.read_text(encoding="utf-8").splitlines()[0] == own
    marker.write_text(f"{ended_process()}\nanother-machine\n", encoding="utf-8")
    with pytest.raises(UserError, match="Another process is writing") as raised, RunLock(tmp_path):
        pass
    assert str(marker) in raised.value.hint
    marker.unlink()
    with RunLock(tmp_path):
        pass


def test_files_are_written_and_what_a_killed_process_left_is_deleted(tmp_path: Path, file_system: str | int) -> None:
    left, in_use = (tmp_path / f".file.{name}.tmp" for name in ("left", "used"))
    left.mkdir()
    in_use.mkdir()
    lock = try_to_lock(in_use)
    assert lock is not None
    with replacing(tmp_path / "file") as temporary:
        write_text(tmp_path / "file", "second")  # a second writer leaves the first one's folder alone
        temporary.write_text("first")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "first"
    assert not left.exists()
    assert in_use.is_dir()
    lock.release()


def test_a_marker_that_finds_no_room_is_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was tried again and again, for ever."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Lock, "_hold", full)
    with pytest.raises(Exception, match="No space left on device"):
        write_text(tmp_path / "file", "text")
    assert not list(tmp_path.iterdir())


def test_a_lock_file_is_deleted_while_it_is_held(tmp_path: Path, file_system: str | int) -> None:
    path = tmp_path / ".lock"
    with lock_file(path), pytest.raises(Held), lock_file(path):
        pass
    with lock_file(path):
        assert path.is_file()
    assert not list(tmp_path.iterdir())


def test_a_lock_of_a_deleted_file_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder deleted it between opening and locking: a second process then had a lock that kept nobody out."""
    path, hold, held = tmp_path / ".lock", Lock._hold, []

    def after_it_is_deleted(lock: Lock, descriptor: int) -> None:
        if not held:
            path.unlink()
        held.append(os.fstat(descriptor).st_ino)
        hold(lock, descriptor)

    monkeypatch.setattr(Lock, "_hold", after_it_is_deleted)
    with lock_file(path):
        assert os.stat(path).st_ino == held[-1]
        assert len(held) == 2


def test_a_file_system_whose_inodes_change_ends_in_an_error_not_in_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with pytest.raises(OSError, match="again and again"):
        Lock(tmp_path / "file").acquire(create=True)
    with pytest.raises(Failure, match="no folder beside it can be locked"):
        write_text(tmp_path / "text", "x")
    with pytest.raises(UserError):
        Journal(tmp_path / "journal")


def test_what_fails_to_open_gives_its_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_read_all", broken)
        with pytest.raises(Failure, match="Input/output error"):
            Journal(tmp_path / "journal")
    Journal(tmp_path / "journal").close()
